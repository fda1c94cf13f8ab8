"""What every variant of the benchmark is given: the same policy with the same adapter, and the same data.

`python work.py full folder` makes it, in a process of its own: the plain variants must never import Unsloth.
"""

import pickle
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from dereason_utils import profiles


@dataclass(frozen=True)
class Size:
    """How much a repetition does. The profile names model, adapter, prompts and sampling."""

    profile: str
    tuning: (
        int  # SFT updates before anything is measured, so that answers have the length of a tuned policy's
    )
    rated: int  # problems that 01 rates
    sft_updates: int
    prompts: int  # of a GRPO step
    max_completion: int  # of its rollouts
    max_answer: int | None  # of the evaluation; None: the profile's
    items: int  # of the evaluation, each sampled as often as the profile says
    checked: int  # answers for the checker
    repetitions: int
    rows: int  # of the matrix products in the machine's ceiling: about a training batch
    buffer_mb: int  # of the copy that measures memory bandwidth
    shared: (
        bool  # whether a variant's tasks share a process: quick to start, but then they share its memory too
    )


SIZES = {
    # A GRPO step of 64 rollouts of at most 64 tokens; 48 completions in the evaluation.
    "full": Size("cpu", 60, 32, 3, 8, 64, None, 24, 2000, 2, 1024, 256, False),
    "quick": Size("smoke", 2, 8, 1, 2, 16, 16, 4, 40, 1, 64, 8, True),
}
CHECKS = 1 + max(size.repetitions for size in SIZES.values())  # fresh answers for each, and for the warm-up


@dataclass(frozen=True)
class Work:
    """Data of all tasks. examples: pre-tokenised, as `sft.tokenise` gives them. answers: question, answer, response,
    answer_type of CHECKS times `checked` problems."""

    size: Size
    settings: profiles.Profile
    where: str  # the model's folder
    adapter: Path
    questions: list[str]
    examples: list[dict]
    problems: list[dict]
    items: list
    answers: list[tuple[str, str, str, str]]

    def little(self) -> "Work":
        """Enough to load, pack and compile all that a repetition needs."""
        batch = self.settings.sft.batch_size
        return replace(self, questions=self.questions[:4], examples=self.examples[:batch], problems=self.problems[:1],
                       items=self.items[:4])  # fmt: skip

    @property
    def grpo(self) -> profiles.Grpo:
        """The profile's, for one step on this size's problems."""
        own = self.settings.grpo
        changes = {
            "steps": 1,
            "prompts_per_step": len(self.problems),
            "updates_per_step": 1,
            "warmup_share": 0.0,
        }
        changes["max_completion"] = self.size.max_completion
        changes["micro_batch_size"] = min(own.micro_batch_size, len(self.problems) * own.group_size)
        return own.model_copy(update=changes)

    @property
    def eval(self) -> profiles.Eval:
        limit = self.size.max_answer or self.settings.eval.max_completion
        return self.settings.eval.model_copy(update={"max_completion": limit})


def load(folder: Path) -> Work:
    with open(folder / "work.pickle", "rb") as file:
        return pickle.load(file)


def make(size: Size, folder: Path) -> None:
    """Tune the policy for a moment and write everything into the folder."""
    from dereason_utils import benchmarks, corpora, judge, models, sft

    settings = profiles.load(size.profile)
    where = models.locate(settings.model)
    model, tokenizer = models.load_policy(where, settings.model, 0, train=True)
    wanted = max(CHECKS * size.checked, (size.tuning + size.sft_updates) * settings.sft.batch_size)
    # Not all draws are new problems, so a few more are asked for.
    corpus = corpora.load(settings.corpus.model_copy(update={"train_size": int(1.5 * wanted) + 50}))
    train = corpus[corpus["split"] == "train"].head(wanted)
    if len(train) < wanted:
        raise SystemExit(
            f"The corpus has only {len(train)} of {wanted} problems: make the benchmark smaller."
        )
    answered = corpora.teacher_answers(train, settings.teacher.slip, 0)
    kept = answered.head((size.tuning + size.sft_updates) * settings.sft.batch_size)
    examples, _ = sft.tokenise(kept, tokenizer, settings.model)
    measured = size.sft_updates * settings.sft.batch_size
    short = settings.sft.model_copy(update={"epochs": 1})
    sft.train(model, tokenizer, examples[measured:], [], short, folder / "tuning", 0)
    models.save_policy(model, tokenizer, folder / "adapter")
    test = corpora.problems(corpus[corpus["split"] == "test"])
    own = settings.eval.model_copy(update={"benchmarks": ["mini_stem"]})
    items = benchmarks.own_items(own, test, judge.first_hard_steps(settings.split.threshold))[: size.items]
    columns = ["id", "question", "answer", "answer_type"]
    made = Work(
        size, settings, where, folder / "adapter", list(train["question"][: size.rated]), examples[:measured],
        train[columns].tail(size.prompts).to_dict("records"), items,
        list(answered[["question", "answer", "response", "answer_type"]].itertuples(index=False, name=None)),
    )  # fmt: skip
    with open(folder / "work.pickle", "wb") as file:
        pickle.dump(made, file)


if __name__ == "__main__":
    import work  # not __main__: the pickle names the module that others import

    work.make(work.SIZES[sys.argv[1]], Path(sys.argv[2]))
