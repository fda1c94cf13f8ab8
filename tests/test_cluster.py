"""Jobs on a cluster: Snakemake's SLURM profile fits the Snakefile, and verl gets the profile's data and numbers."""

import os
import re
import subprocess
import sys

import pandas as pd
import pytest
import wheels
import yaml

from dereason_utils import disk, multi_node, paths, profiles, prompts
from dereason_utils.errors import InputError

SLURM = paths.REPO / "cluster" / "slurm"
PAPER = profiles.load("paper")


def test_the_slurm_profile_names_the_rules_and_the_papers_gpus():
    settings = yaml.safe_load((SLURM / "config.yaml").read_text())
    rules = set(re.findall(r"^rule (\w+):", (paths.REPO / "Snakefile").read_text(), re.MULTILINE))
    assert set(settings["set-resources"]) | set(settings["set-threads"]) <= rules
    gpus = {rule: resources["gpu"] for rule, resources in settings["set-resources"].items()}
    trains = PAPER.hardware.processes
    assert gpus == {"score": 1, "sft": trains, "grpo": trains, "evaluate": 1}
    assert settings["executor"] == "slurm"


def test_snakemake_reads_the_slurm_profile(tmp_path):
    """With the executor that runs nothing in its place: the plugin is in the GPU's environment."""
    settings = yaml.safe_load((SLURM / "config.yaml").read_text())
    disk.write_text(tmp_path / "slurm" / "config.yaml", yaml.safe_dump({**settings, "executor": "dryrun"}))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        str(tmp_path / "slurm"),
        "--config",
        "profile=paper",
    ]
    environment = {**os.environ, "DEREASON_RESULTS": str(tmp_path / "results"), "PYTHONPATH": str(paths.REPO)}
    done = subprocess.run(
        [*command, "--directory", str(tmp_path), "--snakefile", str(paths.REPO / "Snakefile")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = re.split(r"\n\n", done.stdout + done.stderr)
    training = [job for job in jobs if re.search(r"rule (sft|grpo):", job)]
    assert training and all("gpu=8" in job for job in training)


def test_a_preset_reaches_every_step_of_the_graph(tmp_path):
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "all",
        "--nolock",
        "--executor",
        "dryrun",  # Snakemake's own list; with --dry-run the Snakefile prints one of its own
        "--printshellcmds",
    ]
    environment = {**os.environ, "DEREASON_RESULTS": str(tmp_path / "results"), "PYTHONPATH": str(paths.REPO)}
    done = subprocess.run(
        [*command, "--config", "profile=single_gpu", "preset=48gb"],
        capture_output=True, text=True, env=environment, cwd=paths.REPO, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "dereason_utils.run" in line]
    assert len(lines) > 10 and all('preset="48gb"' in line for line in lines)


def test_verl_gets_the_prompts_of_our_own_rollouts_and_our_checker():
    problems = pd.DataFrame(
        {
            "id": ["a", "b"],
            "question": ["How many?", "Who?"],
            "answer": ["7", ""],
            "answer_type": ["number", "number"],
        }
    )
    kept = multi_node.scorable(problems)
    assert kept["id"].tolist() == ["a"]
    style = PAPER.model.prompt_style
    (row,) = multi_node.rows(kept, style).to_dict("records")
    assert row["prompt"] == prompts.policy_messages("How many?", style)
    for text, reward in (("So \\boxed{7}", 1.0), ("\\boxed{8}", 0.0), ("seven?", 0.0)):
        gold = row["reward_model"]["ground_truth"]
        assert (
            multi_node.compute_score(row["data_source"], text, gold, row["extra_info"], num_turns=1) == reward
        )


def test_verl_gets_the_papers_numbers():
    made = multi_node.options(PAPER, "policy", "data", "out", 0, nodes=4)
    assert made["data.train_batch_size"] == 128 and made["actor_rollout_ref.actor.ppo_mini_batch_size"] == 64
    assert made["actor_rollout_ref.actor.optim.lr"] == 1e-6 and made["data.max_response_length"] == 8192
    assert made["trainer.nnodes"] == 4 and made["trainer.n_gpus_per_node"] == 8


@pytest.mark.skipif(
    "DEREASON_CONTRACTS" not in os.environ, reason="downloads verl's wheel: make test-contracts"
)
def test_every_setting_is_verls():
    tree = yaml.safe_load(
        wheels.wheel("verl", "0.9.1").read("verl/trainer/config/_generated_ppo_trainer.yaml")
    )
    for name in multi_node.options(PAPER, "policy", "data", "out", 0, nodes=4):
        place = tree
        for part in name.split("."):
            assert part in place, name
            place = place[part]


@pytest.mark.fault
def test_what_verl_cannot_do_is_refused(roots):
    profile = profiles.load("paper", {"grpo.mask_truncated": True})
    with pytest.raises(InputError, match="mask_truncated"):
        multi_node.options(profile, "policy", "data", "out", 0, nodes=2)
    with pytest.raises(SystemExit, match="no RL stage"):
        multi_node.main(["--arm", "sft_only", "--folder", "out"])
    with pytest.raises(SystemExit, match="several RL phases"):
        multi_node.main(["--arm", "easy_rl_then_hard_rl", "--folder", "out"])
    with pytest.raises(SystemExit, match="has not been run yet"):
        multi_node.main(["--arm", "rl_only", "--folder", "out"])
