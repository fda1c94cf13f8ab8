"""Agreement with lm-evaluation-harness: the same completions, judged by 05_eval's checker and by the harness.

    python tests/harness_agreement.py sample DATA WORK            # with this project's Python
    HARNESS_PYTHON tests/harness_agreement.py judge DATA WORK     # with a Python that has lm-eval 0.4.13
    python tests/harness_agreement.py report DATA WORK            # writes results/agreement/

DATA: a folder with gsm8k.jsonl (GSM8K's test rows) and mmlu_stem.jsonl (MMLU's STEM rows), as in QwenLM/Qwen2.5-Math's
evaluation data. WORK: any folder, for what passes between the three. The harness gets our prompts as its own documents and
runs its own filters and metrics; its model is one that says again what the policy said.
"""

import json
import platform
import random
import sys
from pathlib import Path

ROWS = 100  # of each file
SEED = 2603
MAX_TOKENS = 160
BOXED_LETTER = r"\\boxed\{\s*(?:\\text\{)?\s*\(?([A-D])\b|[Aa]nswer is:? \(?([A-D])\b"
FILES = {"gsm8k": "gsm8k.jsonl", "mmlu_stem": "mmlu_stem.jsonl"}


def drawn(data: Path, name: str) -> list[tuple[int, dict]]:
    """(row number from 0, row) of the rows that are asked, the same in every Python."""
    rows = [json.loads(line) for line in (data / FILES[name]).read_text(encoding="utf-8").splitlines()]
    return [(i, rows[i]) for i in sorted(random.Random(SEED).sample(range(len(rows)), ROWS))]


def gold(name: str, row: dict) -> str:
    return row["answer"].split("####")[1].strip() if name == "gsm8k" else "ABCD"[row["answer"]]


def sample(data: Path, work: Path) -> None:
    """Ask the policy of the cpu profile, greedily, as 05_eval does; keep completions, verdicts and prompts."""
    from dereason_utils import evaluate, models, profiles, prompts
    from dereason_utils.benchmarks import BenchmarkItem
    from dereason_utils.hub_benchmarks import lettered
    from dereason_utils.schema import Problem

    chosen = {
        "eval.samples": 1,
        "eval.temperature": 0.0,
        "eval.max_completion": MAX_TOKENS,
        "eval.batch_size": 16,
    }
    settings = profiles.load("cpu", {**chosen, "model.max_length": 1024})
    items = [
        BenchmarkItem(name, "general", Problem(
            id=f"{name}-{number}", answer=gold(name, row), subject=row.get("type", "mathematics"), family=name, steps=0,
            question=lettered(row["question"], row["choices"]) if name == "mmlu_stem" else row["question"],
            answer_type="choice" if name == "mmlu_stem" else "number",
        ))
        for name in FILES for number, row in drawn(data, name)
    ]  # fmt: skip
    model, tokenizer = models.load_policy(models.locate(settings.model), settings.model, 0, train=False)
    asked, too_long = evaluate.askable(items, tokenizer, settings.model, settings.eval)
    if too_long:
        sys.exit(f"{len(too_long)} prompts are too long: raise model.max_length")
    style = settings.model.prompt_style
    rows = evaluate.evaluate(model, tokenizer, asked, style, settings.eval, work / "checkpoints", "agreement")
    texts = {
        i.problem.id: prompts.render(prompts.policy_messages(i.problem.question, style), tokenizer, style)
        for i in items
    }
    rows.assign(prompt=rows["item_id"].map(texts)).to_json(work / "ours.jsonl", orient="records", lines=True)


def judge(data: Path, work: Path) -> None:
    """Run the harness on our prompts; its verdicts and what it extracted go to WORK/harness.jsonl."""
    from importlib.metadata import version

    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks.aime import (
        utils as boxed,
    )  # the last box of a response, compared as MATH's own script does

    ours = {row["prompt"]: row for row in map(json.loads, (work / "ours.jsonl").read_text().splitlines())}

    class Replay(LM):
        def generate_until(self, requests, disable_tqdm=False):
            return [ours[request.args[0]]["completion"] for request in requests]

        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    tasks = []
    for name in FILES:
        documents = work / f"{name}.jsonl"
        mine = [row for row in ours.values() if row["benchmark"] == name]
        documents.write_text("".join(
            json.dumps({"id": row["item_id"], "prompt": row["prompt"], "answer": row["gold"]}) + "\n" for row in mine
        ))  # fmt: skip
        tasks.append({
            "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(documents)}},
            "test_split": "test", "output_type": "generate_until", "doc_to_text": "prompt", "doc_to_target": "answer",
            "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": MAX_TOKENS}, "num_fewshot": 0,
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        })  # fmt: skip
    tasks[0]["process_results"] = boxed.process_results
    letter = {"function": "regex", "regex_pattern": BOXED_LETTER, "group_select": -1}
    tasks[1]["filter_list"] = [{"name": "boxed letter", "filter": [letter, {"function": "take_first"}]}]
    result = lm_eval.simple_evaluate(Replay(), tasks=tasks, bootstrap_iters=0, log_samples=True)
    with (work / "harness.jsonl").open("w") as file:
        for name in FILES:
            for row in result["samples"][name]:
                said = (
                    row["filtered_resps"][0]
                    if name == "mmlu_stem"
                    else boxed.last_boxed_only_string(row["resps"][0][0])
                )
                found = {
                    "item_id": row["doc"]["id"],
                    "harness": bool(row["exact_match"]),
                    "harness_extracted": said,
                }
                file.write(json.dumps({**found, "lm_eval": version("lm-eval")}) + "\n")


def why(row) -> str:
    """What a disagreement comes from; an error where it is none of those that were looked at."""
    if row.harness_extracted == "[invalid]":
        return (
            "no box and no letter behind 'answer is': the harness finds nothing, ours reads the marked line"
        )
    if row.reason == "hedge":
        return "the box has one option's letter and another's text: a contradiction for ours, the letter counts for the harness"
    raise SystemExit(f"{row.item_id}: an unexplained disagreement, look at WORK/ours.jsonl")


def report(data: Path, work: Path) -> None:
    """Put both verdicts side by side, with a reason for every disagreement, and say where they come from."""
    import pandas as pd
    from statsmodels.stats.inter_rater import cohens_kappa

    from dereason_utils import disk, manifest, models, paths

    ours, theirs = (pd.read_json(work / f"{name}.jsonl", lines=True) for name in ("ours", "harness"))
    both = ours.merge(theirs, on="item_id", validate="one_to_one").astype({"gold": str})
    both["harness_extracted"] = both["harness_extracted"].fillna(
        "[invalid]"
    )  # the harness's word for nothing
    both["agree"] = both["correct"] == both["harness"]
    both["why"] = ["" if row.agree else why(row) for row in both.itertuples()]
    shown = [
        "benchmark",
        "item_id",
        "gold",
        "extracted",
        "correct",
        "reason",
        "harness_extracted",
        "harness",
        "agree",
        "why",
    ]
    folder = paths.committed() / "agreement"
    disk.write_table(folder / "harness_items.csv", both[shown])
    facts = {
        "model": models.SMOLLM2, "decoding": f"greedy, at most {MAX_TOKENS} tokens", "draw_seed": SEED,
        "lm_eval": theirs["lm_eval"].iloc[0], "python": platform.python_version(), "commit": manifest._commit(),
        "command": "tests/harness_agreement.py",
    }  # fmt: skip
    rows = []
    for name, part in [*both.groupby("benchmark"), ("all", both)]:
        read = part[(part["harness_extracted"] != "[invalid]") | ~part["parse_failure"]]
        table = pd.crosstab(part["correct"], part["harness"]).reindex(
            [False, True], columns=[False, True], fill_value=0
        )
        kappa = cohens_kappa(table.to_numpy()).kappa
        file = disk.sha256_file(data / FILES[name]) if name in FILES else ""
        rows.append({
            "benchmark": name, "items": len(part), "agree": part["agree"].sum(), "share": part["agree"].mean(),
            "right_ours": part["correct"].sum(), "right_harness": part["harness"].sum(),
            "right_both": (part["correct"] & part["harness"]).sum(), "kappa": round(kappa, 3), "read_by_either": len(read),
            "share_of_read": round(read["agree"].mean(), 3),
            "unparsed_ours": part["parse_failure"].mean(), "data_sha256": file, **facts,
        })  # fmt: skip
    disk.write_table(folder / "harness_summary.csv", pd.DataFrame(rows))
    print(
        pd.DataFrame(rows)[
            ["benchmark", "items", "agree", "right_ours", "right_harness", "kappa"]
        ].to_string()
    )


def main() -> None:
    step, data, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    work.mkdir(parents=True, exist_ok=True)
    {"sample": sample, "judge": judge, "report": report}[step](data, work)


if __name__ == "__main__":
    main()
