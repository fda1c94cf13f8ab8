"""For tests/test_against_trl.py: plain TRL's training curves on what a pickle names, as JSON, without Unsloth.

python trajectories.py case.pickle -> {"sft float32": {"loss": [...], "grad_norm": [...]}, "grpo float32": ...}
"""

import json
import os
import pickle
import sys
import tempfile
from pathlib import Path

import plain


def scripted(texts: dict[str, list[str]], tokenizer, group_size: int, key):
    """TRL's rollout hook, handing out the written completions of each question; key: from what TRL passes to its question."""

    def rollout(batch, trainer):
        written = [text for asked in batch[::group_size] for text in texts[key(asked)]]
        return {
            "prompt_ids": [tokenizer(key(asked))["input_ids"] for asked in batch],
            "completion_ids": [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in written],
            "logprobs": None, "sampled_entropy": [0.1] * len(written), "rollout_s": [1.0] * len(written),
        }  # fmt: skip

    return rollout


def main(path: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")  # the trainers print their log to standard output
    os.dup2(2, 1)
    case = pickle.loads(path.read_bytes())
    found = {}
    for dtype in plain.DTYPES:
        with tempfile.TemporaryDirectory() as folder:
            model, tokenizer = plain.load(case["where"], case["adapter"], dtype)
            log = plain.sft(
                model, tokenizer, case["examples"], case["sft"], dtype, folder, weight_decay=0.0,
                train_sampling_strategy="sequential",
            )  # fmt: skip
            found[f"sft {dtype}"] = log
        with tempfile.TemporaryDirectory() as folder:
            model, tokenizer = plain.load(case["where"], case["adapter"], dtype)
            asked = {}

            def question(prompt, known=case["texts"], asked=asked):
                return asked.setdefault(prompt, next(q for q in known if f"{q}\n" in prompt))

            rollout = scripted(case["texts"], tokenizer, case["grpo"].group_size, question)
            log, _, _ = plain.grpo_steps(
                model,
                tokenizer,
                case["problems"],
                "plain",
                case["grpo"],
                dtype,
                folder,
                0,
                rollout,
                weight_decay=0.0,
            )
            found[f"grpo {dtype}"] = log
    curves = {
        name: {key: [entry[key] for entry in log] for key in ("loss", "grad_norm", "reward") if key in log[0]}
        for name, log in found.items()
    }
    print(json.dumps(curves), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
