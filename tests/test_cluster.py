"""Jobs on a cluster: Snakemake's SLURM profile fits the Snakefile, and verl gets the profile's data and numbers."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import small_policy
import wheels
import yaml

from dereason_utils import disk, manifest, multi_node, paths, profiles, prompts, split
from dereason_utils.errors import InputError

SLURM = paths.REPO / "cluster" / "slurm"
PAPER = profiles.load("paper")


def test_the_slurm_profile_names_the_rules_and_the_papers_gpus():
    settings = yaml.safe_load((SLURM / "config.yaml").read_text())
    rules = set(re.findall(r"^rule (\w+):", (paths.REPO / "Snakefile").read_text(), re.MULTILINE))
    assert set(settings["set-resources"]) | set(settings["set-threads"]) <= rules
    gpus = {rule: resources["gpu"] for rule, resources in settings["set-resources"].items()}
    trains = PAPER.hardware.processes
    assert gpus == {"score": 1, "split": 1, "sft": trains, "grpo": trains, "evaluate": 1}
    assert settings["set-resources"]["split"]["runtime"] == 7200  # the teacher answers in 02
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
    (teaching,) = [job for job in jobs if re.search(r"rule split:", job)]
    assert "gpu=1" in teaching and "runtime=7200" in teaching


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


CORPUS = pd.DataFrame(
    {
        "id": ["a", "b", "c", "d"],
        "question": ["How many?", "Who?", "How many more?", "How many? " * 400],
        "answer": ["7", "x=x", "8", "9"],
        "answer_type": ["number", "equation", "number", "number"],
        "subject": "mathematics",
        "family": "f",
        "steps": 1,
        "split": "train",
    }
)


@pytest.fixture
def study(roots, monkeypatch):
    """A finished 01, 02 and SFT of dereason under a profile `small`, which is `paper` with a policy of our own."""
    folder = roots / "profiles"
    shutil.copytree(
        profiles.FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", profiles.PINS)
    )
    base = small_policy.build(roots / "base", chat=True)
    values = f"name: !ours {base}\n  max_length: !ours 1024"
    disk.write_text(
        folder / "small.yaml", f"like: paper\nmodel:\n  {values}\ngrpo:\n  max_completion: !ours 512\n"
    )
    monkeypatch.setattr(profiles, "FOLDER", folder)
    scores = CORPUS[["id", "subject"]].assign(score=[1, 4, 4, 5], response_correct=True)

    def step(stage, arm, seed, fill):
        begun = manifest.begin(stage, "small", arm, seed, parameters={})
        manifest.finish(begun, outputs=[fill(begun.folder)])

    def table(name, rows):
        return lambda folder: (disk.write_table(folder / name, rows), name)[1]

    def policy(folder):
        small_policy.build(folder / "policy", chat=True)
        return "policy"

    step("01_score", None, None, table("problems.parquet", CORPUS))
    step("02_split", None, 0, table("sets.parquet", split.selections(scores, 3, 0)))
    step("03_sft", "dereason", 0, policy)
    return base


def exported(folder):
    """(ids of the problems, verl's settings) of an export."""
    words = shlex.split((folder / "run.sh").read_text().replace("\\\n", ""), comments=True)
    assert words[:3] == ["python", "-m", "verl.trainer.main_ppo"]
    rows = pd.read_parquet(folder / "train.parquet")
    return [row["id"] for row in rows["extra_info"]], dict(word.split("=", 1) for word in words[3:])


@pytest.mark.parametrize("arm", ["dereason", "sft_rl_score_4"])
def test_an_export_goes_on_from_the_sft_that_the_arm_shares(study, tmp_path, capsys, arm):
    multi_node.main(["--profile", "small", "--arm", arm, "--folder", str(tmp_path / "out")])
    ids, settings = exported(tmp_path / "out")
    assert ids == ["c"]  # a is easy, b's gold answer says nothing, d's prompt is too long
    shared = paths.step_dir("small", "03_sft", "dereason", 0) / "policy"
    assert settings["actor_rollout_ref.model.path"] == str(shared)
    assert settings["data.train_files"] == str(tmp_path / "out" / "train.parquet")
    said = capsys.readouterr().out
    assert said.startswith(
        "1 of 3 problems (1 prompts" if arm == "dereason" else "1 of 2 problems (0 prompts"
    )


def test_an_export_from_the_base_model_stops_at_the_end_of_a_turn(study, tmp_path):
    from transformers import AutoTokenizer, GenerationConfig

    multi_node.main(["--profile", "small", "--arm", "rl_only", "--folder", str(tmp_path / "out")])
    ids, settings = exported(tmp_path / "out")
    policy = tmp_path / "out" / "policy"
    assert ids == ["a", "c"] and settings["actor_rollout_ref.model.path"] == str(policy)
    # vLLM stops at the tokenizer's end token and at those of the generation settings.
    before, after = AutoTokenizer.from_pretrained(study), AutoTokenizer.from_pretrained(policy)
    assert (before.eos_token, after.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert GenerationConfig.from_pretrained(policy).eos_token_id == before.eos_token_id
    assert disk.sha256_file(policy / "model.safetensors") == disk.sha256_file(study / "model.safetensors")


@pytest.mark.fault
def test_a_base_model_without_a_commit_is_refused(study, tmp_path, capsys):
    disk.write_text(profiles.FOLDER / "small.yaml", "like: paper\n")
    line = ["--profile", "small", "--arm", "rl_only", "--folder", str(tmp_path / "out")]
    assert multi_node.main(line) == 2 and "make pins" in capsys.readouterr().err


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


@pytest.mark.skipif(
    "DEREASON_CONTRACTS" not in os.environ, reason="downloads wheels of verl and vLLM: make test-contracts"
)
def test_vllm_under_verl_stops_at_the_end_token_of_the_policys_tokenizer():
    """Why `base_policy` changes the tokenizer: verl passes no stop tokens and no tokenizer, and vLLM reads that one's."""
    server = wheels.wheel("verl", "0.9.1").read("verl/workers/rollout/vllm_rollout/vllm_async_server.py")
    assert '["serve", self.model_config.local_path]' in server.decode()
    assert b'"tokenizer"' not in server and b"stop_token_ids" not in server
    processor = wheels.wheel("vllm").read("vllm/v1/engine/input_processor.py").decode()
    call = processor[processor.index("update_from_generation_config(") :][:200]
    assert "self.generation_config_fields" in call and "get_eos_token_id()" in call


@pytest.mark.fault
def test_what_verl_cannot_do_is_refused(roots, capsys):
    profile = profiles.load("paper", {"grpo.mask_truncated": True})
    with pytest.raises(InputError, match="mask_truncated"):
        multi_node.options(profile, "policy", "data", "out", 0, nodes=2)
    with pytest.raises(InputError, match="prompt_style"):
        plain = profiles.load("paper", {"model.prompt_style": "plain"})
        multi_node.options(plain, "policy", "data", "out", 0, nodes=2)
    for arm, says in (
        ("sft_only", "no RL stage"),
        ("easy_rl_then_hard_rl", "several RL phases"),
        ("rl_only", "has not been run yet"),
    ):
        assert multi_node.main(["--arm", arm, "--folder", "out"]) == 2
        assert says in capsys.readouterr().err
