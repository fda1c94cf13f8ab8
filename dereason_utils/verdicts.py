"""The ledger: for each of the paper's claims our estimate and a verdict, by the rules in `claims`.

The verdicts speak of the profile's scale alone: its policy, corpus and benchmarks.
"""

import math

import pandas as pd

from dereason_utils import claims, power, stats
from dereason_utils.claims import Claim, Part
from dereason_utils.errors import InputError
from dereason_utils.profiles import Profile
from dereason_utils.results import Results, redraw
from dereason_utils.stats import Estimate


def assess(read: Results, profile: Profile) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(ledger, parts): a row per claim with its verdict, and a row per single comparison with its numbers.

    Columns of parts: `detectable` and `seeds needed` as in `power`, in the unit of the value, at the level that Holm's
    correction asks of the claim that is decided first.
    """
    found = {claim.id: _measured(claim, read) for claim in claims.CLAIMS}
    reasons = {claim.id: _not_testable(claim, profile, found[claim.id]) for claim in claims.CLAIMS}
    chances = {
        claim.id: _chances(found[claim.id])
        for claim in claims.CLAIMS
        if not reasons[claim.id] and _enough(claim, found[claim.id])
    }
    corrected = stats.holm([p for pair in chances.values() for p in pair])
    # What a verdict asks of its first test to pass: one-sided, with all tests of the family still to come.
    level = 1 - 2 * claims.ALPHA / max(2, 2 * list(reasons.values()).count(""))
    pairs = dict(zip(chances, zip(corrected[::2], corrected[1::2], strict=True), strict=True))
    words = claims.stated()
    rows, comparisons = [], []
    for claim in claims.CLAIMS:
        parts = found[claim.id]
        untested = claim.untested or _unmeasured(claim, parts)
        verdict, why = _verdict(reasons[claim.id], untested, pairs.get(claim.id), read, claim, parts)
        comparisons += [
            {"id": claim.id, **_numbers(claim, part, name, estimate, level)} for part, name, estimate in parts
        ]
        rows.append(
            {
                "id": claim.id,
                "claim": words.loc[claim.id, "claim"],
                "where": words.loc[claim.id, "section"],
                "paper": claim.paper,
                "ours": _ours(parts),
                "seeds": len(_seeds_of(read, claim)),
                "verdict": verdict,
                "why": why,
                "untested": "–" if reasons[claim.id] else untested or "–",
                "p holds": pairs.get(claim.id, (math.nan, math.nan))[0],
                "p fails": pairs.get(claim.id, (math.nan, math.nan))[1],
                "figure": claim.figure,
                "command": redraw(profile),
            }
        )
    names = [
        "id",
        "test",
        "name",
        "value",
        "low",
        "high",
        "unit",
        "smallest",
        "detectable",
        "seeds needed",
        "covers",
    ]
    return pd.DataFrame(rows).round(4), pd.DataFrame(comparisons, columns=names).round(4)


def _seeds_of(read: Results, claim: Claim) -> tuple[int, ...]:
    """The seeds that all arms of a claim have; those of the run where not all its arms were run."""
    return read.seeds_of(*claim.arms) if set(claim.arms) <= set(read.arms) else read.seeds


def _measured(claim: Claim, read: Results) -> list[tuple[Part, str, Estimate]]:
    """Every comparison of a claim for which the results have what it needs."""
    if not set(claim.arms) <= set(read.arms):
        return []
    return [(part, name, estimate) for part in claim.parts for name, estimate in part.measure(read)]


def _not_testable(claim: Claim, profile: Profile, found: list) -> str:
    if reason := claims.why_not(claim, profile):
        return reason
    return "" if found else "the results hold nothing that its tests could be computed from"


def _unmeasured(claim: Claim, found: list) -> str:
    lacking = [part.what for part in claim.parts if not any(part is other for other, *_ in found)]
    return "; ".join(lacking)


def _enough(claim: Claim, found: list) -> bool:
    return not claim.trained or all(
        estimate.seeds >= claims.LEAST_SEEDS and power.covers_seeds(estimate) for *_, estimate in found
    )


def _chances(found: list[tuple[Part, str, Estimate]]) -> tuple[float, float]:
    """Uncorrected one-sided p-values of a claim: of 'it does not hold' and of 'it does not fail'."""
    holds = [_chance(part, estimate)[0] for part, _, estimate in found]
    fails = [_chance(part, estimate)[1] for part, _, estimate in found]
    return max(holds), min(1.0, min(fails) * len(fails))


def _chance(part: Part, estimate: Estimate) -> tuple[float, float]:
    turned = estimate if part.gain else _turned(estimate)
    above, below = part.bars()
    return power.tail(turned, above), power.tail(_turned(turned), -below)


def _verdict(reason: str, untested: str, pair, read: Results, claim: Claim, parts: list) -> tuple[str, str]:
    """The verdict by RULES, and why in half a sentence, with the claim's remark."""
    verdict, why = _by_rules(reason, untested, pair, read, claim, parts)
    lone = any(1 == estimate.groups < estimate.questions for *_, estimate in parts)
    remarks = [
        claim.remark,
        "a benchmark has one problem family, whose questions are resampled" if lone else "",
    ]
    return verdict, "; ".join(filter(None, [why, *remarks])) if not reason else why


def _by_rules(reason: str, untested: str, pair, read: Results, claim: Claim, parts: list) -> tuple[str, str]:
    if reason:
        return claims.NOT_TESTABLE, reason
    if pair is None:
        seeds = len(_seeds_of(read, claim))
        trained = f"{seeds} training seed{'s' * (seeds > 1)}"
        return claims.UNDECIDED, f"{trained}; the rule asks for {claims.LEAST_SEEDS}"
    holds, fails = pair
    if fails < claims.ALPHA:
        part, name, _ = min(parts, key=lambda found: _chance(found[0], found[2])[1])
        said = "as the claim says, is excluded" if part.gain else "which the claim denies, is there"
        return (
            claims.CONTRADICTED,
            f"'{name}' of {part.smallest:g} {part.unit} or more, {said} (Holm's p = {fails:.3g})",
        )
    if holds < claims.ALPHA and untested:
        return claims.UNDECIDED, f"what was tested holds (Holm's p = {holds:.3g}); not tested: {untested}"
    if holds < claims.ALPHA:
        return claims.SUPPORTED, f"Holm's p = {holds:.3g}"
    return claims.UNDECIDED, f"neither holds (Holm's p = {holds:.3g}) nor fails (Holm's p = {fails:.3g})"


def _numbers(claim: Claim, part: Part, name: str, estimate: Estimate, level: float) -> dict:
    return {
        "test": part.what,
        "name": name,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "unit": part.unit,
        "smallest": part.smallest,
        "detectable": power.detectable(estimate, level),
        "seeds needed": _seeds(estimate, part.smallest, level) if claim.trained else "–",
        "covers": estimate.covers,
    }


def _seeds(estimate: Estimate, smallest: float, level: float) -> str:
    try:
        number = power.seeds_needed(estimate, smallest, level)
    except InputError:
        return "not known from one seed"
    if number or not estimate.variances.get("questions"):
        return str(number or f"more than {power.MOST_SEEDS}")
    return "more problem families" if 1 < estimate.groups < estimate.questions else "more questions"


def _ours(found: list[tuple[Part, str, Estimate]]) -> str:
    """All estimates with their intervals in one cell."""
    cells = []
    for part, name, estimate in found:
        interval = (
            f" [{estimate.low:+z.2f}, {estimate.high:+z.2f}]"
            if math.isfinite(estimate.low)
            else " (no interval)"
        )
        cells.append(f"{name} {estimate.value:+z.2f}{interval} {part.unit}")
    return "; ".join(cells) or "–"


def _turned(estimate: Estimate) -> Estimate:
    return Estimate(
        **{**vars(estimate), "value": -estimate.value, "low": -estimate.high, "high": -estimate.low}
    )
