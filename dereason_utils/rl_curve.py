"""The policy's accuracy on held-out problems along RL (the paper's Figure 6)."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dereason_utils import disk, evaluate
from dereason_utils.profiles import Grpo

FILE = "curve.parquet"


def problems(corpus: pd.DataFrame, settings: Grpo, seed: int) -> pd.DataFrame:
    """Test problems for the evaluations, the same for every arm; of a web corpus, which has none, validation problems.

    corpus: the rows of `corpora.load`. seed: not the training seed.
    """
    split = "test" if (corpus["split"] == "test").any() else "validation"
    held_out = corpus[corpus["split"] == split]
    return held_out.sample(min(settings.evaluate_size, len(held_out)), random_state=seed)


def measure(
    model, tokenizer, held_out: pd.DataFrame, style: str, settings: Grpo, seed: int
) -> Callable[[Path, int], None]:
    """look(folder, step): evaluates the model as it is and keeps the rows on disk, for `collect`.

    One completion a problem, decoded as in the rollouts, with the same draws at every step.
    """

    def look(folder: Path, step: int) -> None:
        rows = evaluate.spot_check(
            model, tokenizer, held_out, style, copies=1, max_completion=settings.max_completion,
            temperature=settings.temperature, seed=seed,
        )  # fmt: skip
        table = rows[["id", "correct", "parse_failure", "tokens"]].assign(
            family=list(held_out["family"]), step=step
        )
        disk.write_table(folder / "curve" / f"step-{step:05d}.parquet", table)

    return look


def every_so_often(look: Callable[[Path, int], None], folder: Path, settings: Grpo):
    """A trainer callback that looks before the first step, after every `evaluate_every` and after the last one.

    A training that goes on repeats the looks since its checkpoint, with the same rows.
    """
    from transformers import TrainerCallback

    class EverySoOften(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            if state.global_step == 0:
                look(folder, 0)

        def on_step_end(self, args, state, control, **_):
            step, rest = divmod(state.global_step, settings.updates_per_step)
            if rest == 0 and (step % settings.evaluate_every == 0 or step == settings.steps):
                look(folder, step)

    return EverySoOften()


def collect(folder: Path) -> pd.DataFrame:
    """All rows of one phase, in step order: columns id, family, step (0 = before RL), correct, parse_failure, tokens."""
    return pd.concat(
        [pd.read_parquet(path) for path in sorted((folder / "curve").glob("step-*.parquet"))],
        ignore_index=True,
    )
