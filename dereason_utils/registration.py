"""What is fixed before a run: hypotheses, arms, seeds, benchmarks, tests, the smallest effects that count, Holm's family.

    python -m dereason_utils.registration --profile cpu

writes results/<profile>/registration.md from the profile and the rules in `claims`. Commit it before the run:
06_figures says whether its commit precedes those of the runs.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from dereason_utils import claims, disk, paths, profiles, workflow
from dereason_utils.errors import command
from dereason_utils.measures import KNOWLEDGE, REASONING
from dereason_utils.power import POWER
from dereason_utils.profiles import Profile
from dereason_utils.split import ARMS, PAPER, seeds_of
from dereason_utils.tables import AVERAGE, TABLES

NAME = "registration.md"


def path(profile: str) -> Path:
    """In the repository, wherever a run's results go: its commit is what counts."""
    return paths.committed() / profile / NAME


def text(profile: Profile) -> str:
    """The registration in Markdown; the same profile and rules give the same bytes."""
    testable = [claim for claim in claims.CLAIMS if not claims.why_not(claim, profile)]
    pairs = [pair for pair in claims.OPEN if set(pair) <= set(profile.arms)]
    lines = [
        f"# Registered analysis of profile `{profile.name}`",
        "",
        (
            f"Made by `python -m dereason_utils.registration --profile {profile.name}` and committed before the run. The verdicts "
            "speak of this scale alone."
        ),
        "",
        "## Arms and seeds",
        "",
        f"Training seeds: {', '.join(map(str, profile.seeds))}.{_fewer(profile)}",
        "",
        *(f"- `{arm}`: {ARMS[arm].about}" for arm in profile.arms),
        "",
        "## Benchmarks",
        "",
        (
            f"{', '.join(profile.eval.benchmarks)}. {AVERAGE} of {' or '.join(TABLES.values())} = plain mean of the benchmarks of "
            "that table; accuracy = pass@1, an answer that cannot be read counts as wrong."
        ),
        f"Asking for reasoning (C7): {', '.join(REASONING)}; for knowledge or a single step: {', '.join(KNOWLEDGE)}.",
        "",
        "## Hypotheses and tests",
        "",
        "| claim | what is tested, and predicted to be positive | smallest effect that counts |",
        "|---|---|---|",
        *(row for claim in testable for row in _tests(claim)),
        "",
        (
            "Differences are paired by question; intervals hold training seeds, questions (by problem family) and samples. "
            f"Holm's family: {', '.join(claim.id for claim in testable)} (two p-values each)."
        ),
        "",
        "Not testable here:",
        "",
        *(
            f"- {claim.id}: {claims.why_not(claim, profile)}"
            for claim in claims.CLAIMS
            if claim not in testable
        ),
        "",
        "## Rules",
        "",
        *(f"{number}. {rule}" for number, rule in enumerate(claims.RULES, 1)),
        "",
        "## What the paper lacks",
        "",
        "Effects with intervals on both averages, Holm's correction among themselves, no verdict on a claim: "
        + ("; ".join(f"{a} minus {b}" for a, b in pairs) or "none of these arms is run")
        + ".",
        "",
        (
            f"Detectable effects are given for a power of {100 * POWER:.0f}%. Settings are chosen on validation problems, for all "
            "arms alike, never on test questions."
        ),
        "",
        "## Settings",
        "",
        "| setting | value | source |",
        "|---|---|---|",
        *(f"| {name} | {value} | {source} |" for name, value, source in profiles.settings_table(profile)),
        "",
    ]
    return "\n".join(lines)


def _fewer(profile: Profile) -> str:
    own = {arm: seeds_of(arm, profile.seeds, profile.other_seeds) for arm in profile.arms}
    fewer = [
        arm for arm in profile.arms if ARMS[arm].sft + ARMS[arm].rl and len(own[arm]) < len(profile.seeds)
    ]
    return f" The first {profile.other_seeds} of them: {', '.join(fewer)}." if fewer else ""


def _tests(claim: claims.Claim) -> list[str]:
    limit = f" (part of the claim; not tested: {claim.untested})" if claim.untested else ""
    return [f"| {claim.id} | {part.what}{limit} | {part.smallest:g} {part.unit} |" for part in claim.parts]


def standing(profile: Profile, commits: Iterable[str]) -> str:
    """One sentence: whether the registration's last commit precedes all the runs' commits, and still says the same.

    commits: of the runs' manifests. A commit precedes another when git has it among the other's ancestors.
    """
    file = path(profile.name)
    if not file.is_file():
        return f"Not registered: results/{profile.name}/{NAME} is not there (`make register PROFILE={profile.name}`)."
    changed = _difference(file.read_text(encoding="utf-8"), profile)
    if shutil.which("git") is None or not (last := _git(file, "log", "-1", "--format=%H", "--", file.name)):
        return f"Registered, but no git history tells when.{changed}"
    if _git(file, "status", "--porcelain", "--", file.name):
        return f"Registered, but the file differs from what was committed.{changed}"
    late = sorted({made for made in commits if not _precedes(file, last, made)})
    when = f"Registered in commit {last[:10]}"
    if late:
        shown = ", ".join(made[:10] for made in late)
        return f"{when}, which does NOT precede these commits of the runs: {shown}.{changed}"
    return f"{when}, which precedes every commit of the runs.{changed}"


def _difference(said: str, profile: Profile) -> str:
    """How the profile differs from the registration, as a sentence; nothing if it does not."""
    if said == text(profile):
        return ""
    whole, done = profiles.load(profile.name), len(profile.seeds)
    plan = {"seeds": whole.seeds, "other_seeds": whole.other_seeds, "arms": whole.arms}
    same = {**profile.model_dump(), **plan} == whole.model_dump()
    left_out = [arm for arm in whole.arms if arm not in profile.arms]
    part = profile.seeds == whole.seeds[:done] and not set(profile.arms) - set(whole.arms)
    if not same or not part or set(left_out) & set(PAPER) or said != text(whole):
        return " Today's profile or rules differ from it."
    return f" So far {workflow.told(whole, profile)}"


def _precedes(file: Path, earlier: str, later: str) -> bool:
    """A run from a changed checkout ('-dirty') counts by the commit it stood on; equal commits count as preceding."""
    later = later.partition("-")[0]
    line = ["git", "-C", file.parent, "merge-base", "--is-ancestor", earlier, later]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def _git(file: Path, *words: str) -> str:
    line = ["git", "--no-optional-locks", "-C", file.parent, *words]
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()


@command
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m dereason_utils.registration", description="Fix the analysis before the run."
    )
    parser.add_argument("--profile", default="cpu")
    options = parser.parse_args(arguments)
    profile = profiles.load(options.profile)
    disk.write_text(path(profile.name), text(profile))
    print(f"{path(profile.name)} is written: commit it before the run.")


if __name__ == "__main__":
    sys.exit(main())
