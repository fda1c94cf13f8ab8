"""One SIGKILL through the real runner; tests/kill_study.py is the large version."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_study
import pandas as pd
import psutil
import pytest

from dereason_utils import corpora, disk, manifest, paths, profiles, training

OVERRIDES = {
    "corpus.train_size": 24, "corpus.max_steps": 2, "grpo.steps": 12, "grpo.save_every": 2, "grpo.probe_size": 2,
    "grpo.prompts_per_step": 4, "grpo.group_size": 4, "grpo.micro_batch_size": 16, "grpo.max_completion": 64,
}  # fmt: skip
STEP = ("04_grpo", "rl_only", 0)
COMMAND = [
    sys.executable, "-m", "dereason_utils.run", "04_grpo", "--profile", "smoke", "--arm", "rl_only", "--seed", "0",
    *(word for name, value in OVERRIDES.items() for word in ("-o", f"{name}={value}")),
]  # fmt: skip


@pytest.fixture
def start():
    """Starts the runner; a failed test leaves none running."""
    runners = []

    def start():
        pipe = subprocess.PIPE
        runners.append(subprocess.Popen(COMMAND, cwd=paths.REPO, stdout=pipe, stderr=pipe, text=True))
        return runners[-1]

    yield start
    for runner in runners:
        runner.terminate()  # takes its kernel along
        runner.wait()


def finish(runner):
    output, error = runner.communicate(timeout=1800)
    assert runner.returncode == 0, output[-2000:] + error[-2000:]


def test_04_grpo_ends_with_the_same_bytes_after_its_kernel_was_killed(start, tmp_path, monkeypatch):
    # All that 04_grpo reads for this arm.
    monkeypatch.setenv("DEREASON_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path / "reference"))
    corpus = corpora.load(profiles.load("smoke", OVERRIDES).corpus)
    drawn = corpus.loc[corpus["split"] == "train", ["id"]].assign(all=True)
    for stage, seed, name, table in (
        ("01_score", None, "problems.parquet", corpus),
        ("02_split", 0, "sets.parquet", drawn),
    ):
        before = manifest.begin(stage, "smoke", seed=seed, parameters={})
        disk.write_table(before.folder / name, table)
        manifest.finish(before, outputs=[name])
    shutil.copytree(tmp_path / "reference", tmp_path / "killed")

    finish(start())
    reference = paths.step_dir("smoke", *STEP)
    assert pd.read_csv(reference / "steps.csv")["grad_norm"].gt(0).any()

    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path / "killed"))
    folder = paths.step_dir("smoke", *STEP)
    runner = start()
    while (checkpoint := training.last_whole_checkpoint(folder / "checkpoints" / "phase1")) is None:
        assert runner.poll() is None, runner.communicate()
        time.sleep(0.02)
    (kernel,) = psutil.Process(runner.pid).children()
    os.kill(kernel.pid, signal.SIGKILL)
    _, error = runner.communicate(timeout=60)
    assert runner.returncode == 1
    assert "The kernel was killed" in error
    assert not paths.manifest_path("smoke", *STEP).exists()
    checkpoint = Path(training.last_whole_checkpoint(folder / "checkpoints" / "phase1"))
    before = json.loads((checkpoint / "trainer_state.json").read_text())

    finish(start())
    assert kill_study.differing(folder, reference) == []
    assert {"steps.csv", "rollouts.parquet", "policy/adapter_model.safetensors"} <= kill_study.made(
        folder
    ).keys()
    # It went on and did not start again: the steps before the checkpoint have the times of the killed run.
    times = pd.read_csv(folder / "timing.csv")["rollout_s"]
    own = [entry["rollout_s"] for entry in before["log_history"] if "rollout_s" in entry]
    assert 2 <= len(own) < OVERRIDES["grpo.steps"]
    assert times[: len(own)].tolist() == own
