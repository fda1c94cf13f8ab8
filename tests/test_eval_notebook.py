"""05_eval as a notebook on benchmark files of the paper's kinds: what it keeps, what it shows, and what it must not."""

import json

import pandas as pd
import pytest
import small_policy

from dereason_utils import disk, manifest, paths, run, workflow

SECRET = "Zyxwv"  # stands in every text of the gated benchmark's rows
FILES = {
    "gpqa_diamond": [
        {"Question": f"Which {SECRET} of {i}?", "Correct Answer": f"right {SECRET}", "High-level domain": "Physics",
         **{f"Incorrect Answer {n}": f"wrong {SECRET} {n}" for n in (1, 2, 3)}} for i in range(3)
    ],
    "bbeh": [{"task": f"task {i % 2}", "input": f"How many of {i}?", "target": str(i)} for i in range(4)],
    "aime24": [{"id": 60, "problem": "Find m.", "answer": "204"}],
}  # fmt: skip


@pytest.fixture
def evaluated(roots, monkeypatch):
    """The finished step of arm base on these files, with a policy that was never trained."""
    monkeypatch.delenv("DEREASON_NOTEBOOKS")
    scored = manifest.begin("01_score", "smoke", parameters={})
    problem = {
        "id": "a",
        "question": "?",
        "answer": "1",
        "answer_type": "number",
        "subject": "s",
        "family": "f",
        "steps": 1,
    }
    disk.write_table(scored.folder / "problems.parquet", pd.DataFrame([{**problem, "split": "test"}]))
    manifest.finish(scored, outputs=["problems.parquet"])
    folder = roots / "files"
    for name, rows in FILES.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "rows.json").write_text(json.dumps(rows))
    policy = str(small_policy.build(roots / "model", chat=True))
    overrides = {
        "model.name": policy, "model.prompt_style": "zero_shot", "eval.model_verifier": policy,
        "model.max_length": 1024, "eval.benchmarks": list(FILES), "eval.benchmark_folder": str(folder),
        "eval.max_completion": 8, "eval.batch_size": 32,
    }  # fmt: skip
    run.run_step("smoke", workflow.StepKey("05_eval", "base", 0), overrides)
    return manifest.require("smoke", "05_eval", "base", 0)


def test_each_benchmark_has_its_samples_and_nothing_secret_is_kept_or_shown(roots, evaluated):
    rows = pd.read_parquet(evaluated.folder / "items.parquet")
    sizes = rows.groupby(["benchmark", "item_id"]).size().groupby("benchmark").agg(["size", "first"])
    assert sizes.to_numpy().tolist() == [[1, 32], [4, 1], [3, 8]]  # aime24, bbeh, gpqa_diamond
    assert rows["family"].isna().all() and (rows["steps"] == 0).all()
    secret = rows["benchmark"] == "gpqa_diamond"
    assert rows.loc[secret, ["completion", "gold"]].isna().all(axis=None)
    assert rows.loc[~secret, ["completion", "gold"]].notna().all(axis=None)
    summary = pd.read_csv(evaluated.folder / "summary.csv").set_index("benchmark")
    assert summary["samples"].to_dict() == {"gpqa_diamond": 8, "bbeh": 1, "aime24": 32}
    assert {"random_credit", "macro", "parse_failures"} <= set(summary.columns)
    opinions = pd.read_parquet(evaluated.folder / "verifier.parquet")
    assert len(opinions) == (rows["extracted"].notna() & ~secret & (rows["verdict"] != "unscorable")).sum()
    kept = [
        path
        for root in (paths.results_root(), paths.runs_root())
        for path in root.rglob("*")
        if path.is_file()
    ]
    assert any(path.suffix == ".ipynb" for path in kept)
    for path in kept:
        text = pd.read_parquet(path).to_csv() if path.suffix == ".parquet" else path.read_text()
        assert SECRET not in text, path
