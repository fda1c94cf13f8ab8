"""RL on several nodes with verl (0.9), the engine that the paper used; everything else stays as it is.

    python -m dereason_utils.multi_node --profile paper --arm dereason --seed 0 --nodes 4 --folder out

writes the arm's RL problems as verl reads them, the policy to start from, and run.sh, which gives verl the profile's
numbers; the folder must be one that all nodes see. verl calls `compute_score` below, so that the reward is the
evaluation's checker here too. verl has an environment of its own, in which this package is installed without
dependencies but math-verify, sympy and pint; it is no part of our locks.
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd

from dereason_utils import disk, manifest, profiles, prompts, training_sets, workflow
from dereason_utils.errors import InputError, command
from dereason_utils.split import ARMS

AGGREGATION = {"dapo": "token-mean", "grpo": "seq-mean-token-mean", "dr_grpo": "seq-mean-token-sum-norm"}


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict, **_) -> float:
    """verl's hook for a reward: 1 if the completion's answer is right, else 0 (paper, Eq. 2)."""
    from dereason_utils.verify import verify

    verdict = verify(extra_info["question"], ground_truth, solution_str, extra_info["answer_type"])
    return float(verdict.verdict == "correct")


def rows(problems: pd.DataFrame, style: str) -> pd.DataFrame:
    """The problems in verl's columns; it renders the messages with the model's chat template.

    problems: columns id, question, answer, answer_type. style: `model.prompt_style`. Problems whose gold answer cannot be scored have no reward of
    None in verl, so the caller leaves them out.
    """
    return pd.DataFrame(
        {
            "data_source": "dereason",
            "prompt": [prompts.policy_messages(question, style) for question in problems["question"]],
            "ability": "reasoning",
            "reward_model": [{"style": "rule", "ground_truth": answer} for answer in problems["answer"]],
            "extra_info": problems[["id", "question", "answer_type"]].to_dict("records"),
        }
    )


def scorable(problems: pd.DataFrame) -> pd.DataFrame:
    """Without the problems whose own gold answer the checker cannot score."""
    from dereason_utils.verify import verify_many

    golds = [f"\\boxed{{{answer}}}" for answer in problems["answer"]]
    columns = (list(problems[name]) for name in ("question", "answer", "answer_type"))
    question, answer, kind = columns
    verdicts = verify_many(question, answer, golds, kind)
    return problems[[verdict.verdict != "unscorable" for verdict in verdicts]].reset_index(drop=True)


def options(
    profile: profiles.Profile, policy: str, data: str, folder: str, seed: int, nodes: int
) -> dict[str, object]:
    """verl's settings, by their dotted names, from the profile's. Raises InputError for what verl cannot do."""
    rl, model = profile.grpo, profile.model
    if rl.mask_truncated:
        raise InputError("grpo.mask_truncated has no counterpart in verl: set it to false.")
    if model.prompt_style == "plain":
        raise InputError(
            "verl renders prompts with the chat template: set model.prompt_style to chat or zero_shot."
        )
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": rl.scale_rewards,
        "data.train_files": data,
        "data.val_files": data,
        "data.train_batch_size": rl.prompts_per_step,
        "data.max_prompt_length": model.max_length - rl.max_completion,
        "data.max_response_length": rl.max_completion,
        "data.filter_overlong_prompts": True,
        "data.seed": seed,
        "actor_rollout_ref.model.path": policy,
        f"{actor}.optim.lr": rl.learning_rate,
        f"{actor}.optim.lr_warmup_steps_ratio": rl.warmup_share,
        f"{actor}.optim.lr_scheduler_type": rl.schedule,
        f"{actor}.optim.weight_decay": rl.weight_decay,
        f"{actor}.grad_clip": rl.max_grad_norm,
        f"{actor}.ppo_mini_batch_size": rl.prompts_per_step // rl.updates_per_step,
        f"{actor}.ppo_micro_batch_size_per_gpu": rl.micro_batch_size,
        f"{actor}.clip_ratio_low": rl.clip_low,
        f"{actor}.clip_ratio_high": rl.clip_high,
        f"{actor}.loss_agg_mode": AGGREGATION[rl.loss],
        f"{actor}.use_kl_loss": rl.kl_weight > 0,
        f"{actor}.kl_loss_coef": rl.kl_weight,
        f"{actor}.entropy_coeff": 0,
        f"{rollout}.name": "vllm",
        f"{rollout}.n": rl.group_size,
        f"{rollout}.temperature": rl.temperature,
        f"{rollout}.gpu_memory_utilization": profile.hardware.memory_share,
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": rl.micro_batch_size,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": rl.micro_batch_size,
        "reward.custom_reward_function.path": str(Path(__file__)),
        "reward.custom_reward_function.name": "compute_score",
        "trainer.total_training_steps": rl.steps,
        "trainer.save_freq": max(1, rl.save_every // rl.updates_per_step),
        "trainer.test_freq": -1,
        "trainer.val_before_train": False,
        "trainer.n_gpus_per_node": profile.hardware.processes,
        "trainer.nnodes": nodes,
        "trainer.logger": "[console]",
        "trainer.default_local_dir": f"{folder}/checkpoints",
    }


def base_policy(model: profiles.Model, folder: Path) -> Path:
    """The base model at its commit, in a folder whose tokenizer names the chat template's end of a turn as its end token.

    verl has no setting for either: it hands vLLM the model's folder, and vLLM stops at the tokenizer's end token and at
    those of generation_config.json. Raises InputError when the model cannot be had or has no whole weights.
    """
    from transformers import AutoTokenizer

    from dereason_utils import gpu, models

    where = Path(gpu.local_copy(models.locate(model), model.revision))
    models.check_weights(where)
    tokenizer = AutoTokenizer.from_pretrained(where)
    models.end_with_turn(tokenizer)
    with disk.atomic_folder(folder) as working:
        shutil.copytree(where, working, dirs_exist_ok=True)
        tokenizer.save_pretrained(working)
    return folder


def write(profile: profiles.Profile, arm: str, seed: int, nodes: int, folder: Path) -> str:
    """Write train.parquet, run.sh and, for an arm without SFT, the base policy into the folder; says what was left out.

    Reads what 04_grpo reads, and leaves out what it leaves out. Raises InputError for an arm that verl cannot train and
    for a step that was not run.
    """
    from transformers import AutoTokenizer

    if arm not in ARMS or not ARMS[arm].rl:
        raise InputError(
            f"{arm!r} has no RL stage: choose one of {', '.join(n for n, a in ARMS.items() if a.rl)}."
        )
    if len(ARMS[arm].rl) > 1:
        raise InputError(f"{arm} has several RL phases: verl is given one, so choose another arm.")
    data = folder / "train.parquet"
    policy = folder / "policy"
    scored = manifest.require(profile.name, "01_score", outputs=["problems.parquet"])
    splits = manifest.require(profile.name, "02_split", seed=seed, outputs=["sets.parquet"])
    for made in workflow.trained(arm, seed)[:-1]:
        policy = manifest.require(profile.name, *made, outputs=["policy"]).folder / "policy"
    settings = options(profile, str(policy), str(data), str(folder), seed, nodes)
    problems = training_sets.of_arm(training_sets.corpus(scored), splits, arm, "rl")
    if not ARMS[arm].sft:
        base_policy(profile.model, policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    fits = prompts.fitting(problems["question"], tokenizer, profile.model, profile.grpo.max_completion)
    kept = scorable(problems[fits])
    disk.write_table(data, rows(kept, profile.model.prompt_style))
    command = [
        "python -m verl.trainer.main_ppo",
        *(shlex.quote(f"{name}={value}") for name, value in settings.items()),
    ]
    disk.write_text(folder / "run.sh", "#!/usr/bin/env bash\n" + " \\\n  ".join(command) + "\n")
    return (
        f"{len(kept)} of {len(problems)} problems ({fits.count(False)} prompts leave no room for a completion, of "
        f"{sum(fits) - len(kept)} problems the gold answer cannot be scored) and run.sh are in {folder}."
    )


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write an arm's RL problems and settings for verl.")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args(words)
    profile = profiles.load(given.profile)
    print(write(profile, given.arm, given.seed, given.nodes, given.folder.resolve()))


if __name__ == "__main__":
    sys.exit(main())
