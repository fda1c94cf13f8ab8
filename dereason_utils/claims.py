"""The paper's 17 claims: how each is tested, and the rules of the verdicts, which stand here before any run.

`registration` writes the same into results/<profile>/registration.md; `verdicts` computes the estimates and gives the verdicts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from dereason_utils import measures, paths, tables
from dereason_utils.profiles import Profile
from dereason_utils.results import Results
from dereason_utils.stats import Estimate

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTABLE = (
    "supported",
    "contradicted",
    "undecided",
    "not testable here",
)
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTABLE)
ALPHA = 0.05
LEAST_SEEDS = 3  # fewer tell too little of how much two trainings of an arm differ
# The smallest effects that count. In points: half of the smallest gain that the paper claims on an average (C5: 0.9).
POINTS, PERCENT, NATS = 0.5, 5.0, 0.05
RULES = (
    (
        f"**{NOT_TESTABLE}**: an arm, a measurement or a kind of data that the claim needs is not part of this profile; the "
        "ledger names it."
    ),
    (
        f"**{UNDECIDED}** if a claim about trained arms rests on fewer than {LEAST_SEEDS} training seeds, whatever its "
        "interval says: the spread between trainings is then not known well enough."
    ),
    (
        "Every test is written so that the claim predicts a positive value, and gets two one-sided p-values: that the true "
        "value is at most 0, and that it is at least the smallest effect that counts. Of a claim with several tests the first "
        "is its largest (all must hold), the second its smallest times their number (one that fails is enough). Where the "
        "claim says that something does NOT help, both ask on which side of that smallest effect the gain lies."
    ),
    (
        f"A benchmark on which all compared arms are right in less than {100 * measures.FLOOR:g}% of cases, or wrong in less, "
        "is left out of tests on every benchmark; a difference without any variation decides nothing."
    ),
    f"Holm's correction at {ALPHA} runs over both p-values of all claims that can be tested.",
    (
        f"**{CONTRADICTED}**: the second p-value is below {ALPHA} after correction, so that an effect of the size that counts "
        "is excluded. This is looked at first."
    ),
    (
        f"**{SUPPORTED}**: the first p-value is below {ALPHA} after correction. If only a part of the claim can be tested, "
        f"the verdict stays **{UNDECIDED}**."
    ),
    f"**{UNDECIDED}** otherwise.",
)


@dataclass(frozen=True)
class Part:
    """One test. `measure` returns pairs (name, Estimate), each of which must hold; `smallest` is in `unit`.

    gain: the claim predicts a value above 0; False: it predicts that the value is no gain that counts.
    """

    what: str
    measure: Callable[[Results], measures.Found]
    smallest: float = POINTS
    unit: str = "points"
    gain: bool = True

    def bars(self) -> tuple[float, float]:
        """(the claim holds above the first, fails below the second), for the value turned as the claim predicts it."""
        return (0.0, self.smallest) if self.gain else (-self.smallest, -self.smallest)


@dataclass(frozen=True)
class Claim:
    """How one of the paper's claims is tested.

    arms: all that it needs. untested: the part of the claim that no test covers. never: why it cannot be tested at all
    (or a function of the profile that says so). trained: whether it is about trained arms, so that seeds count. remark: what
    its registered tests leave open, seen after they were registered; it is shown beside the verdict and decides nothing.
    """

    id: str
    arms: tuple[str, ...]
    parts: tuple[Part, ...]
    paper: str
    figure: str
    untested: str = ""
    never: Callable[[Profile], str] = lambda _: ""
    trained: bool = True
    remark: str = ""


def _gap(a: str, b: str, what: str = "", table: str = "general") -> Part:
    measure = partial(measures.average, weights={a: 1, b: -1}, table=table)
    return Part(what or f"{a} minus {b}, average of the {table} benchmarks", measure)


def _reported(a: str, b: str, name: str = "table1", columns: tuple[str, ...] = ("avg",)) -> str:
    """The paper's own difference a - b for each of its corpora, from results/paper."""
    rows, found = tables.reported(name), []
    for corpus, title in tables.CORPORA.items():
        own = rows[rows["corpus"] == corpus].set_index("arm")
        if {a, b} <= set(own.index):
            gaps = [
                f"{tables.REPORTED[name][column]} {own.loc[a, column] - own.loc[b, column]:+z.1f}"
                for column in columns
            ]
            found.append(f"{title}: {', '.join(gaps)}")
    return f"{a} minus {b}: " + "; ".join(found)


def _generated(profile: Profile) -> str:
    generated = profile.corpus.name == "mini_stem"
    return (
        "the corpus is generated: which subjects its hard problems have is set, not found"
        if generated
        else ""
    )


def _no_model_teacher(profile: Profile) -> str:
    if profile.teacher.via == "reference":
        return "the teacher is a program, and the judge a tuned policy, not an instruct model"
    return "the corpus has no true difficulty to hold the judge's rating against"


def _constant(reason: str) -> Callable[[Profile], str]:
    return lambda _: reason


GENERAL, MATHEMATICS = ("mmlu_pro", "gpqa_diamond", "supergpqa", "bbeh"), ("aime24", "aime25", "math500")
_SCALE = "shown as a figure without numbers"
CLAIMS = (
    *(
        Claim(
            name,
            ("sft_only", "rl_only"),
            (
                Part(f"SFT minus RL on the same problems at every size, {table} average",
                     partial(measures.sft_minus_rl_by_size, table=table)),
                Part(f"the same at the largest size minus that at the smallest, {table} average",
                     partial(measures.growth_with_size, table=table), gain=True),
            ),
            f"{_SCALE} (Figure 1)",
            "figure1",
            remark="at every size RL makes the same steps, which may draw fewer problems than there are, and SFT as many "
                   "passes, so that its updates grow with the size",
        )
        for name, table in (("C1", "general"), ("C2", "mathematics"))
    ),
    Claim(
        "C3", ("sft_only", "rl_only"),
        (Part("sft_only minus rl_only on every benchmark",
              partial(measures.each_benchmark, weights={"sft_only": 1, "rl_only": -1})),),
        _reported("sft_only", "rl_only", "table1", GENERAL) + "; "
        + _reported("sft_only", "rl_only", "table2", MATHEMATICS),
        "figure10", remark="the claim speaks of two corpora, a profile has one",
    ),
    Claim("C4", ("random_split", "sft_only"), (_gap("random_split", "sft_only"),),
          _reported("random_split", "sft_only"), "figure10"),
    Claim("C5", ("dereason", "random_split"), (_gap("dereason", "random_split"),),
          _reported("dereason", "random_split"), "figure10"),
    Claim("C6", ("dereason", "sft_only", "rl_only"),
          (_gap("dereason", "sft_only"), _gap("dereason", "rl_only")),
          _reported("dereason", "sft_only") + "; " + _reported("dereason", "rl_only"), "figure10",
          remark="the claim speaks of two corpora, a profile has one"),
    Claim(
        "C7", ("dereason", "sft_only"),
        (Part("dereason minus sft_only, on benchmarks that ask for reasoning minus on the others",
              partial(measures.reasoning_minus_knowledge, weights={"dereason": 1, "sft_only": -1})),),
        _reported("dereason", "sft_only", "table1", GENERAL), "figure10",
    ),
    Claim(
        "C8", ("sft_then_hard_sft", "sft_only", "dereason"),
        (Part("sft_then_hard_sft minus sft_only is no gain that counts, average of the general benchmarks",
              partial(measures.average, weights={"sft_then_hard_sft": 1, "sft_only": -1}), gain=False),
         _gap("dereason", "sft_then_hard_sft")),
        _reported("sft_then_hard_sft", "sft_only") + "; " + _reported("dereason", "sft_then_hard_sft"), "figure10",
    ),
    Claim(
        "C9", (),
        (Part("share of mathematics and physics among hard problems minus among easy ones",
              lambda read: measures.mathematics_at_hard_scores(read, 3), smallest=PERCENT),),
        "mathematics: about 78% at score 4, 96% at score 5", "figure2", never=_generated, trained=False,
    ),
    Claim(
        "C10", ("dereason", "sft_only", "rl_only"),
        (_gap("dereason", "sft_only", table="mathematics"), _gap("sft_only", "rl_only", table="mathematics")),
        _reported("dereason", "sft_only", "table2", MATHEMATICS) + "; "
        + _reported("sft_only", "rl_only", "table2", MATHEMATICS), "figure10",
        remark="tested on the average, the claim's exception is a single benchmark",
    ),
    Claim(
        "C11", tuple(f"sft_rl_score_{score}" for score in range(1, 6)),
        (Part("RL after SFT on score 4 or 5, mean, minus on score 1, 2 or 3, general average",
              partial(measures.average, weights={f"sft_rl_score_{score}": 1 / 2 if score > 3 else -1 / 3
                                                 for score in range(1, 6)})),
         Part("the fall along RL on score 1, 2 or 3, mean",
              partial(measures.fall_along_rl, arms=[f"sft_rl_score_{score}" for score in (1, 2, 3)])),
         Part("along RL on score 4 or 5, mean, no fall that counts",
              partial(measures.fall_along_rl, arms=[f"sft_rl_score_{score}" for score in (4, 5)]), gain=False)),
        f"{_SCALE} (Figure 6)", "figure6",
        remark="scores 4 and 5 are tested together, Figure 6 shows each",
    ),
    Claim(
        "C12", ("rl_only", "random_split"),
        (Part("first reward, random_split minus rl_only",
              partial(measures.curve, column="reward", quarter="first", scale=100,
                      weights={"random_split": 1, "rl_only": -1})),
         Part("rise of the reward, rl_only minus random_split",
              partial(measures.curve, column="reward", quarter="gain", scale=100,
                      weights={"rl_only": 1, "random_split": -1}))),
        f"{_SCALE} (Figure 3): from base a large gain within about 40 steps", "figure3",
        untested="the plateau, and each score in a training of its own",
    ),
    Claim(
        "C13", ("rl_only", "dereason"),
        (Part("dereason: how much shorter its responses get under RL",
              partial(measures.shortening, arm="dereason"), smallest=PERCENT, unit="%"),
         Part("rl_only: how much longer its responses to hard problems are than to easy ones, at the end",
              lambda read: measures.hard_minus_easy_length(read, "rl_only", 3), smallest=PERCENT, unit="%")),
        "about 4200 to 3000 tokens on hard problems (-29%); from base a gap above 1000 tokens by step 40", "figure4",
        remark="the gap at the end is tested, not whether it grew under RL; Figure 4 by score shows both ends",
    ),
    Claim(
        "C14", ("rl_only", "random_split"),
        tuple(
            Part(what, partial(measures.curve, column="entropy", quarter=quarter, weights=weights),
                 smallest=NATS, unit="nats")
            for what, quarter, weights in (
                ("entropy at first, rl_only minus random_split", "first", {"rl_only": 1, "random_split": -1}),
                ("fall of the entropy, rl_only minus random_split", "gain", {"random_split": 1, "rl_only": -1}),
                ("entropy at last, random_split minus rl_only", "last", {"random_split": 1, "rl_only": -1}),
            )
        ),
        "base: about 2.0 to below 0.10; from SFT near 0.30, slowly falling", "figure5",
    ),
    Claim(
        "C15", (),
        (Part("Spearman's correlation of the judge's rating with the true steps, above 0.5",
              lambda read: [(name, _shifted(found, -0.5)) for name, found in measures.judge_agreement(read)],
              smallest=0.1, unit="above 0.5"),),
        "no number", "figure2", never=_no_model_teacher, trained=False,
    ),
    Claim("C16", (), (), "no number", "–", never=_constant("every arm is trained with one RL loss; none was run again with "
                                                         "a second one")),
    Claim("C17", (), (), "WebInstruct-verified: Avg. 43.8, the next reference row of its size 35.3", "table1",
          never=_constant("the reference models were not evaluated on this profile's benchmarks")),
)  # fmt: skip

# Comparisons that the paper lacks: effects with intervals, corrected among themselves, without a verdict on the paper.
OPEN = tuple(
    ("dereason", other)
    for other in (
        "reversed", "subject_matched_random", "passrate_split", "threshold_2", "threshold_4", "filtered_teacher",
        "sft_easy", "sft_all_then_rl_all", "sft_all_then_hard_rl", "easy_rl_then_hard_rl", "sft_only_updates", "sft_only_tokens",
    )
)  # fmt: skip


def stated() -> pd.DataFrame:
    """The paper's claims in words, by id (results/paper/claims.csv): columns section, claim, test."""
    return pd.read_csv(paths.committed() / "paper" / "claims.csv").set_index("id")


def why_not(claim: Claim, profile: Profile) -> str:
    """Why a profile cannot test a claim, or nothing."""
    missing = [arm for arm in claim.arms if arm not in profile.arms]
    if missing:
        return (
            f"needs the arm{'s' * (len(missing) > 1)} {', '.join(missing)}, which this profile does not run"
        )
    return claim.never(profile)


def _shifted(estimate: Estimate, by: float) -> Estimate:
    moved = {name: getattr(estimate, name) + by for name in ("value", "low", "high")}
    return Estimate(**{**vars(estimate), **moved})
