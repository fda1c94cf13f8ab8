"""How far two arms are apart, question by question: the benchmarks' differences, the effects of all pairs, the paper's beside ours.

Every number of ours comes from 05_eval's per-item files and is in percentage points; `render` writes the tables.
"""

import math
from collections.abc import Collection, Iterable
from itertools import combinations, compress

import pandas as pd

from dereason_utils import results, stats, tables
from dereason_utils.claims import LEAST_SEEDS
from dereason_utils.results import Results
from dereason_utils.tables import AVERAGE, CORPORA, REPORTED, TABLES, reported

PAIRS = (
    ("dereason", "random_split"),
    ("dereason", "sft_only"),
    ("dereason", "rl_only"),
    ("random_split", "sft_only"),
    ("sft_only", "rl_only"),
)


DIFFERENCE = [
    "a",
    "b",
    "scope",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "questions",
    "groups",
    "seeds",
    "covers",
]
GENERAL = f"{AVERAGE} general"


def differences(
    read: Results,
    pairs: Iterable[tuple[str, str]] = PAIRS,
    averages_only: bool = False,
    unit: str = "group",
) -> pd.DataFrame:
    """Paired differences a - b in percentage points, per benchmark and table's average, for pairs that ran.

    Intervals are clustered by `unit`: question family ("group"), or each question by itself ("item_id"), which speaks of
    these families alone. `p_holm` is Holm's correction over the pairs of one scope with at least LEAST_SEEDS training seeds;
    the others have none, because too little is known of how much two trainings of an arm differ.
    `covers` says whether the spread between training runs is inside: with one training seed it is not.
    """
    pairs = [pair for pair in pairs if set(pair) <= set(read.arms)]
    rows = []
    for table in TABLES.values():
        for scope, items in tables.columns(read.items[read.items["table"] == table]):
            if averages_only and scope != AVERAGE:
                continue
            name = f"{scope} {table}" if scope == AVERAGE else scope
            estimates = _differences(items, pairs, unit)
            for (a, b), estimate, p in zip(pairs, estimates, _corrected(estimates), strict=True):
                rows.append(
                    {
                        "a": a,
                        "b": b,
                        "scope": name,
                        **_points(estimate),
                        "p": estimate.p_value,
                        "p_holm": p,
                        "questions": estimate.questions,
                        "groups": estimate.groups,
                        "seeds": estimate.seeds,
                        "covers": estimate.covers,
                    }
                )
    # The columns are named, since a run of one arm has no pair, and a table of no rows.
    return pd.DataFrame(rows, columns=DIFFERENCE).round(4)


def _corrected(estimates: Collection[stats.Estimate]) -> list[float]:
    enough = [estimate.seeds >= LEAST_SEEDS for estimate in estimates]
    corrected = iter(stats.holm([estimate.p_value for estimate in compress(estimates, enough)]))
    return [next(corrected) if known else math.nan for known in enough]


def side_by_side(read: Results) -> pd.DataFrame:
    """What the paper's tables report beside ours, per corpus of the paper: each arm minus each other, and on the paper's own
    benchmarks each arm by itself (b empty).

    Columns a, b, table, scope, corpus, reported, difference, low, high (ours), apart (ours minus reported, points),
    apart_low, apart_high, compatible. An effect on an average is compared with the average of our benchmarks, which are
    others at most profiles; single benchmarks are compared where they are the paper's. `compatible`: whether the reported
    effect lies in our interval; the paper gives no error of its own. With one training seed the interval lacks the spread
    between trainings, and a `no` is put in brackets.
    """
    rows = []
    for name, table in TABLES.items():
        theirs = _reported_with_average(name)
        items = read.items[read.items["table"] == table]
        same = set(items["benchmark"]) == set(REPORTED[name]) - {"avg"}
        for scope, part in tables.columns(items):
            column = "avg" if scope == AVERAGE else scope
            if column not in theirs:
                continue
            where = {"table": table, "scope": scope}
            for corpus, title in CORPORA.items():
                own = tables.on_corpus(theirs, corpus)[column]
                arms = [arm for arm in reversed(read.arms) if pd.notna(own.get(arm))]
                for arm in arms if same or scope != AVERAGE else ():
                    shown = _apart(tables.rate(part, arm)[0], own[arm])
                    rows.append({"a": arm, "b": "", **where, "corpus": title} | shown)
                pairs = list(combinations(arms, 2))
                for (a, b), estimate in zip(pairs, _differences(part, pairs), strict=True):
                    shown = _apart(estimate, own[a] - own[b])
                    rows.append({"a": a, "b": b, **where, "corpus": title} | shown)
    names = ["a", "b", "table", "scope", "corpus", "reported", "difference", "low", "high", "apart", "apart_low",
             "apart_high", "compatible"]  # fmt: skip
    return pd.DataFrame(rows, columns=names).round(4)


def _reported_with_average(name: str) -> pd.DataFrame:
    """Table 2 has no average column of its own: the plain mean of its benchmarks."""
    theirs = reported(name)
    if "avg" not in theirs:
        theirs["avg"] = theirs[list(REPORTED[name])].mean(axis=1)
    return theirs


def _apart(estimate: stats.Estimate, reported: float) -> dict:
    ours = _points(estimate)
    value, low, high = ours.values()
    inside = low <= reported <= high
    known = estimate.seeds > 1
    return {
        "reported": reported,
        **ours,
        "apart": value - reported,
        "apart_low": low - reported,
        "apart_high": high - reported,
        "compatible": "yes" if inside else "no" if known else "(no)",
    }


def effects(read: Results) -> pd.DataFrame:
    """Paired differences of all arm pairs on both averages, Holm's correction among the pairs of a table."""
    pairs = combinations(reversed(read.arms), 2)
    found = differences(read, pairs, averages_only=True)
    return found.assign(table=found["scope"].str.removeprefix(f"{AVERAGE} "))


def effects_on_these_families(read: Results) -> pd.DataFrame:
    """`dereason` minus every other arm, as if the benchmark's families were all there are: questions are drawn, families not.

    Exploratory: thought of when six seeds of `nano` had been seen, and no verdict reads it. It answers whether an effect is
    there on these problems; `effects` answers whether it would be on other families.
    """
    pairs = [("dereason", arm) for arm in reversed(read.arms) if arm != "dereason"]
    return differences(read, pairs, averages_only=True, unit="item_id")


def of(pairs: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Of a table of differences the rows with `arm`, all as `arm` minus the other."""
    turned = pairs[pairs["b"] == arm]
    turned = turned.assign(
        a=arm, b=turned["a"], difference=-turned["difference"], low=-turned["high"], high=-turned["low"]
    )
    return pd.concat([pairs[pairs["a"] == arm], turned])


def of_the_split(pairs: pd.DataFrame) -> pd.DataFrame:
    """Of a table of differences dereason minus each other arm on the general average, by that arm."""
    return of(pairs[pairs["scope"] == GENERAL], "dereason").set_index("b")


def gains(items: pd.DataFrame, pairs: Collection[tuple[str, str]]) -> list[dict]:
    """For each (a, b) arm a minus arm b on the given questions, in points: difference, low, high."""
    return [_points(estimate) for estimate in _differences(items, pairs)]


def _points(estimate: stats.Estimate) -> dict[str, float]:
    """A difference of two rates in points. Its interval ends at 100, beyond which no such difference can lie."""
    low, high = max(-1.0, estimate.low), min(1.0, estimate.high)
    return {"difference": 100 * estimate.value, "low": 100 * low, "high": 100 * high}


def _differences(
    items: pd.DataFrame, pairs: Collection[tuple[str, str]], unit: str = "group"
) -> list[stats.Estimate]:
    """Of each pair of arms; an arm's answers are cut once, however many pairs it is in."""
    cubes = {arm: results.cube(items, arm) for arm in {arm for pair in pairs for arm in pair}}
    return [_paired(cubes[a], cubes[b], unit) for a, b in pairs]


def _paired(a: tuple, b: tuple, unit: str = "group") -> stats.Estimate:
    """a, b: what `results.cube` gives for two arms. unit: the column of its questions that is resampled."""
    (first, questions), (second, _) = a, b
    seeds = min(len(first), len(second))  # an arm may have only the first of the seeds
    return tables.difference_of(first[:seeds], second[:seeds], questions[unit], questions["benchmark"])
