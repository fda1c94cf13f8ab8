"""The `smoke` profile from the first notebook to the last, through Snakemake and papermill, on real (tiny) models."""

import json
import os
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from dereason_utils import paths, profiles, split
from dereason_utils.split import ARMS
from dereason_utils.verify import verify_many

PROFILE = profiles.load("smoke")
SNAKEMAKE = [
    sys.executable, "-m", "snakemake", "--cores", "all", "--nolock", "--ignore-incomplete", "--quiet", "all",
    "--rerun-triggers", "mtime", "--config", "profile=smoke",
]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(results folder, executed notebooks, environment) of one whole smoke study."""
    root = tmp_path_factory.mktemp("smoke")
    environment = os.environ | {
        "DEREASON_RESULTS": str(root / "results"),
        "DEREASON_RUNS": str(root / "runs"),
    }
    done = subprocess.run(
        SNAKEMAKE, cwd=paths.REPO, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root / "results" / "smoke", root / "runs" / "smoke", environment


def step(study, stage, arm):
    return study[0] / stage / arm / "seed0"


def test_every_step_has_its_manifest_and_its_executed_notebook(study):
    stages = [json.loads(path.read_text())["stage"] for path in study[0].rglob("manifest.json")]
    expected = {"01_score": 1, "02_split": 1, "03_sft": 3, "04_grpo": 3, "05_eval": 5, "06_figures": 1}
    assert {stage: stages.count(stage) for stage in expected} == expected
    for path in study[1].glob("*.ipynb"):
        counts = [c.execution_count for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1)), path.name
    assert len(list(study[1].glob("*.ipynb"))) == 14


def test_sft_lowered_the_loss(study):
    for arm in ("sft_only", "random_split", "dereason"):
        curve = pd.read_csv(step(study, "03_sft", arm) / "steps.csv")
        measured = curve["validation_loss"].dropna()
        assert measured.iloc[-1] < measured.iloc[0]


def test_rl_changed_the_weights_that_sft_left(study):
    for arm in ("random_split", "dereason"):
        before, after = (
            load_file(step(study, stage, arm) / "policy" / "adapter_model.safetensors")
            for stage in ("03_sft", "04_grpo")
        )
        assert before.keys() == after.keys()
        assert max(np.abs(before[name] - after[name]).max() for name in before) > 1e-5


def test_rewards_are_what_the_checker_says(study):
    problems = pd.read_parquet(study[0] / "01_score" / "problems.parquet").set_index("id")
    for arm in (arm for arm in PROFILE.arms if ARMS[arm].rl):
        folder = step(study, "04_grpo", arm)
        rollouts, texts = (pd.read_parquet(folder / f"{n}.parquet") for n in ("rollouts", "completions"))
        assert rollouts[["id", "step"]].equals(texts[["id", "step"]])
        own = problems.loc[rollouts["id"]]
        verdicts = verify_many(own["question"], own["answer"], texts["completion"], own["answer_type"])
        assert rollouts["reward"].tolist() == [float(v.verdict == "correct") for v in verdicts]
        curve = pd.read_csv(step(study, "04_grpo", arm) / "steps.csv")
        np.testing.assert_allclose(curve["reward"], rollouts.groupby("step")["reward"].mean(), atol=1e-6)


def test_arms_trained_on_their_own_problems(study):
    drawn = pd.read_parquet(study[0] / "02_split" / "seed0" / "sets.parquet")
    problems = pd.read_parquet(study[0] / "01_score" / "scores.parquet")
    for arm in (arm for arm in PROFILE.arms if ARMS[arm].rl):
        rollouts = pd.read_parquet(step(study, "04_grpo", arm) / "rollouts.parquet")
        assert set(rollouts["id"]) <= set(split.arm_set(problems, drawn, arm, "rl")["id"])
    easy, hard = (split.arm_set(problems, drawn, "dereason", use) for use in ("sft", "rl"))
    assert easy["score"].max() == 3 and hard["score"].min() == 4


def test_all_arms_answered_the_same_items(study):
    asked = {
        arm: sorted(zip(table["item_id"], table["sample"], strict=True))
        for arm in PROFILE.arms
        for table in [pd.read_parquet(step(study, "05_eval", arm) / "items.parquet")]
    }
    assert len({json.dumps(items) for items in asked.values()}) == 1


def test_tables_hold_what_the_item_files_hold(study):
    table = pd.read_csv(study[0] / "06_figures" / "table1.csv").set_index("arm")
    for arm in PROFILE.arms:
        rows = pd.read_parquet(step(study, "05_eval", arm) / "items.parquet")
        for benchmark, part in rows[rows["table"] == "general"].groupby("benchmark"):
            assert table.loc[arm, benchmark] == pytest.approx(100 * part["correct"].mean(), abs=0.006)


def test_figures_are_there_as_png_and_pdf(study):
    for number in range(1, 7):
        for suffix in ("png", "pdf"):
            assert (study[0] / "06_figures" / f"figure{number}.{suffix}").stat().st_size > 1000


def test_nothing_changed_means_nothing_to_do_in_seconds(study):
    before = {path: path.stat().st_mtime_ns for path in study[0].rglob("manifest.json")}
    begun = time.monotonic()
    subprocess.run(SNAKEMAKE, cwd=paths.REPO, env=study[2], check=True, capture_output=True)
    assert time.monotonic() - begun < 10
    assert {path: path.stat().st_mtime_ns for path in study[0].rglob("manifest.json")} == before
