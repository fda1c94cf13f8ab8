"""A results folder of random numbers in the schemas of the real stages, for tests of tables and figures."""

import numpy as np
import pandas as pd

from dereason_utils import disk, manifest
from dereason_utils.hub_benchmarks import BENCHMARKS
from dereason_utils.split import ARMS, seeds_of, sft_of

SUBJECTS = ("mathematics", "physics", "chemistry", "biology", "computer science", "economics")
# Chance of a correct answer at one step, and what each further step multiplies it with.
SKILL = {
    "base": (0.20, 0.62), "rl_only": (0.55, 0.72), "sft_only": (0.72, 0.76), "random_split": (0.74, 0.79),
    "dereason": (0.76, 0.82),
}  # fmt: skip
TASKS = {"letter_counting": "language", "leg_counting": "biology", "time_intervals": "time",
         "color_cube_rotation": "space", "chain_sum": "mathematics", "gcd": "mathematics"}  # fmt: skip


def questions(test_size: int, gym_size: int) -> pd.DataFrame:
    """Benchmark questions; the same for every arm and seed."""
    rows = []
    for i in range(test_size):
        subject = SUBJECTS[i % len(SUBJECTS)]
        family, steps = f"{subject.replace(' ', '_')}.family{(i // 6) % 4}", 1 + (i // 5) % 8
        level = "hard" if steps >= 4 else "easy"
        table = "mathematics" if subject == "mathematics" else "general"
        name = "mini_stem mathematics" if table == "mathematics" else f"mini_stem {level}"
        rows.append((name, table, f"{family}-s{steps}-{i}", subject, family, steps, steps))
    for i in range(gym_size):
        task, subject = list(TASKS.items())[i % len(TASKS)]
        level = ("easy", "hard")[(i // len(TASKS)) % 2]
        table = "mathematics" if subject == "mathematics" else "general"
        name = "reasoning_gym mathematics" if table == "mathematics" else f"reasoning_gym {level}"
        rows.append((name, table, f"rg.{task}-{level}-{i}", subject, task, 0, 4 if level == "easy" else 9))
    columns = ["benchmark", "table", "item_id", "subject", "family", "steps", "effort"]
    return pd.DataFrame(rows, columns=columns)


def paper_questions(size: int) -> pd.DataFrame:
    """Questions of the paper's seven benchmarks, `size` of each, with the samples and options that they have there."""
    rows = []
    for benchmark in BENCHMARKS.values():
        options = {"mmlu_pro": 10, "supergpqa": 10, "gpqa_diamond": 4}.get(benchmark.name, 0)
        for i in range(size):
            subject = f"{benchmark.name} subject {i % 3}"
            where = (benchmark.name, benchmark.table, f"{benchmark.name}-{i}", subject, None, 0)
            rows.append((*where, 1 + i % 7, benchmark.samples, options))
    known = ["benchmark", "table", "item_id", "subject", "family", "steps", "effort", "samples", "options"]
    return pd.DataFrame(rows, columns=known)


def items(arm: str, seed: int, asked: pd.DataFrame, samples: int) -> pd.DataFrame:
    """05_eval's rows of one run; `samples` of each question where its own column `samples` does not say."""
    if "samples" not in asked:
        asked = asked.assign(samples=samples, options=0)
    rng = np.random.default_rng([seed, *arm.encode()])
    families = sorted(asked["family"].dropna().unique())
    ease = dict(zip(families, np.random.default_rng(5).normal(0, 0.06, len(families)), strict=True))
    start, decay = SKILL.get(arm, SKILL["sft_only"])
    rows = asked.loc[asked.index.repeat(asked["samples"])].reset_index(drop=True)
    chance = (start * decay ** (rows["effort"] - 1) + rows["family"].map(ease).fillna(0)).clip(0.005, 0.98)
    correct = rng.random(len(rows)) < chance
    failed = ~correct & (rng.random(len(rows)) < (0.3 if arm == "base" else 0.04))
    wrong = pd.Series(rng.integers(0, 12, len(rows))).astype(str)
    guess = np.where(failed & (rows["options"] > 0), 1 / rows["options"].clip(lower=1), 0)
    return rows.drop(columns=["effort", "samples", "options"]).assign(
        sample=rows.groupby("item_id").cumcount(),
        gold="42",
        completion="...",
        extracted=np.where(correct, "42", wrong.where(~pd.Series(failed), None)),
        verdict=np.where(correct, "correct", "incorrect"),
        reason="value",
        correct=correct,
        parse_failure=failed,
        tokens=rng.integers(20, 160, len(rows)),
        truncated=failed,
        random_credit=np.where(correct, 1.0, guess),
    )


def grpo_steps(arm: str, seed: int, steps: int) -> pd.DataFrame:
    """04_grpo's training curve: from base a low start, a high entropy and long answers."""
    rng = np.random.default_rng([seed, 3, *arm.encode()])
    x = np.linspace(0, 1, steps)
    from_sft = bool(ARMS[arm].sft)
    reward = (0.16 + 0.17 * x) if from_sft else (0.04 + 0.2 * (1 - np.exp(-3 * x)))
    entropy = (0.42 - 0.2 * x) if from_sft else 1.1 * np.exp(-1.8 * x)
    length = (92 - 14 * x) if from_sft else (118 - 30 * x)
    return pd.DataFrame(
        {
            "step": np.arange(1, steps + 1),
            "reward": np.clip(reward + rng.normal(0, 0.035, steps), 0, 1),
            "reward_std": 0.3,
            "response_length": length + rng.normal(0, 3, steps),
            "entropy": entropy * np.exp(rng.normal(0, 0.06, steps)),
            "zero_variance_share": np.round(np.clip(0.55 - 0.2 * x + rng.normal(0, 0.08, steps), 0, 1) * 16)
            / 16,
            "truncated_share": 0.1,
            "clip_share": 0.001,
            "grad_norm": 0.5,
            "loss": 0.0,
            "learning_rate": 6e-5,
        }
    )


def sft_steps(arm: str, seed: int, steps: int) -> pd.DataFrame:
    """03_sft's learning curve, with the validation loss at four steps."""
    rng = np.random.default_rng([seed, 4, *arm.encode()])
    step = np.arange(1, steps + 1)
    loss = 0.35 + 1.4 * np.exp(-step / 7) + rng.normal(0, 0.03, steps)
    measured = step % max(1, steps // 4) == 0
    return pd.DataFrame(
        {
            "step": step,
            "epoch": step / steps,
            "loss": loss,
            "grad_norm": 1.0,
            "learning_rate": 3e-4,
            "validation_loss": np.where(measured, loss + 0.03, np.nan),
        }
    )


def scores(size: int) -> pd.DataFrame:
    """01_score's ratings, with more mathematics among the hard problems."""
    rng = np.random.default_rng(9)
    steps = 1 + np.arange(size) % 8
    score = np.clip(np.round(steps / 8 * 4 + 0.6 + rng.normal(0, 0.6, size)), 1, 5).astype(int)
    mathematics = rng.random(size) < np.array([0.1, 0.15, 0.3, 0.5, 0.7])[score - 1]
    subject = np.where(mathematics, SUBJECTS[0], np.array(SUBJECTS)[rng.integers(1, 6, size)])
    return pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(size)], "rating": pd.array(score, "Int64"),
            "expected_rating": score + rng.normal(0, 0.1, size), "analysis": "", "parse_status": "ok",
            "score": pd.array(score, "Int64"), "subject": subject, "family": "f", "steps": steps,
        }
    )  # fmt: skip


def rollouts(curve: pd.DataFrame, train: int) -> pd.DataFrame:
    """04_grpo's rollouts: 16 problems a step, two each; longer for problems later in the pool's cycle of steps."""
    rows = [
        (f"p{(31 * step + i // 2) % train}", "42", step, "...", float(i % 3 == 0), 40 + step + 3 * (i % 8))
        for step in curve["step"]
        for i in range(32)
    ]
    return pd.DataFrame(rows, columns=["id", "answer", "step", "completion", "reward", "tokens"])


def along_rl(seed: int, accuracies: list[float]) -> pd.DataFrame:
    """04_grpo's looks at 40 held-out problems of five families; a problem is right while its rank is below the accuracy."""
    rank = np.random.default_rng([seed, 7]).permutation(40)
    rows = [
        (f"t{i}", f"family{i % 5}", 2 * place, bool(rank[i] < 40 * accuracy))
        for place, accuracy in enumerate(accuracies)
        for i in range(40)
    ]
    return pd.DataFrame(rows, columns=["id", "family", "step", "correct"]).assign(
        parse_failure=False, tokens=50, phase=1
    )


def size(sets: dict[str, int], selections: tuple[str, ...]) -> int:
    """Problems of a stage's selections; those without a size of their own are half of the pool."""
    return sum(sets.get(name, sets["all"] // 2) for name in selections)


def write(
    profile="cpu", arms=tuple(SKILL), seeds=(0,), test_size=240, gym_size=96, samples=4, train=800, rl_steps=24,
    paper_size=0, other_seeds=None, looks=None,
):  # fmt: skip
    """Write all steps of a profile under $DEREASON_RESULTS, each with its manifest.

    looks: arm -> accuracies along RL, two steps apart, which its 04_grpo wrote down. paper_size: where it is not 0, the paper's benchmarks with so many questions each, instead of ours.
    """

    def step(stage, tables, arm=None, seed=None):
        begun = manifest.begin(stage, profile, arm, seed, parameters={})
        for name, table in tables.items():
            disk.write_table(begun.folder / name, table)
        manifest.finish(begun, outputs=list(tables))

    step("01_score", {"scores.parquet": scores(train)})
    easy = int((scores(train)["score"] <= 3).sum())
    sets = {
        "all": train,
        "easy": easy,
        "random_easy_sized": easy,
        "hard": train - easy,
        "random_hard_sized": train - easy,
    }
    asked = paper_questions(paper_size) if paper_size else questions(test_size, gym_size)
    for seed in seeds:
        sizes = [{"arm": a, "sft": size(sets, ARMS[a].sft), "rl": size(sets, ARMS[a].rl)} for a in arms]
        step("02_split", {"sizes.csv": pd.DataFrame(sizes)}, seed=seed)
        for arm in arms:
            if seed not in seeds_of(arm, seeds, other_seeds):
                continue
            if ARMS[arm].sft:
                own = sft_of(arm)
                step(
                    "03_sft", {"steps.csv": sft_steps(own, seed, size(sets, ARMS[own].sft) // 16)}, own, seed
                )
            if ARMS[arm].rl:
                curve = grpo_steps(arm, seed, rl_steps)
                made = {"steps.csv": curve, "rollouts.parquet": rollouts(curve, train)}
                if arm in (looks or {}):
                    made["curve.parquet"] = along_rl(seed, looks[arm])
                step("04_grpo", made, arm, seed)
            step("05_eval", {"items.parquet": items(arm, seed, asked, samples)}, arm, seed)
