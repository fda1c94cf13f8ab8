"""`make figures` needs results and no torch: 06_figures as it is run, where importing a training library fails."""

import os
import subprocess
import sys
import time

import pytest
import synthetic_results

from dereason_utils import manifest, paths, profiles, run

ARMS = ("base", "sft_only", "rl_only", "dereason", "reversed")
MISSING = ("torch", "transformers", "trl", "peft", "datasets", "unsloth", "vllm")


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Of an installation without the training libraries, with a small study's results and none of its models."""
    for name in MISSING:
        (tmp_path / "missing" / name).mkdir(parents=True)
        (tmp_path / "missing" / name / "__init__.py").write_text("raise ImportError('not installed here')\n")
    for name in ("RESULTS", "RUNS"):
        monkeypatch.setenv(f"DEREASON_{name}", str(tmp_path / name.lower()))
    synthetic_results.write("cpu", ARMS, (0, 1), test_size=60, gym_size=24, train=96, rl_steps=9)
    return os.environ | {"PYTHONPATH": f"{tmp_path / 'missing'}:{paths.REPO}"}


def test_the_missing_libraries_are_missing(environment):
    for name in MISSING:
        line = [sys.executable, "-c", f"import {name}"]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        assert "not installed here" in done.stderr


def test_figures_are_drawn_without_torch_in_under_a_minute(environment):
    overrides = {"arms": list(ARMS), "seeds": [0, 1]}
    given = {"arms": list(ARMS), "seeds": [0, 1, 2]}  # the last was not run
    line = [sys.executable, "-m", "dereason_utils.run", "06_figures", "--profile", "cpu", "--so-far"]
    line += [word for name, value in given.items() for word in ("-o", f"{name}={value}")]
    assert run.parse_overrides(line[8::2]) == given
    begun = time.monotonic()
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Profile cpu: 2 of its 3 training seeds were run." in done.stdout
    made = manifest.require("cpu", "06_figures")
    assert made.parameters == profiles.stage_settings(profiles.load("cpu", overrides), "06_figures")
    assert {f"figure{number}.png" for number in range(1, 14)} <= set(made.outputs)
    assert time.monotonic() - begun < 60
