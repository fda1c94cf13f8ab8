"""A run of one's own beside the committed one: what is the same byte for byte, and how far apart the arms are where it is not.

    make reproduce ANEW=1 [PROFILE=...]     trains everything again, into reproduced/, and ends with
    DEREASON_RESULTS=reproduced/results python -m dereason_utils.reproduction --profile cpu

which prints two tables and writes them to reproduced/results/<profile>/reproduction.md. The same processor gives the same bytes;
another one rounds differently, and each training then goes its own way.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dereason_utils import comparisons, disk, manifest, paths, profiles, render, results, tables
from dereason_utils.errors import InputError, command

REPORT = "reproduction.md"
HERE, COMMITTED = "here", "committed"
_TIMES = "timing.csv"  # no two runs take as long


class Run(NamedTuple):
    """A finished step of one of the two results folders."""

    made: manifest.Manifest
    folder: Path


Pair = tuple[Run, Run]  # the same step here and committed


def pairs(here: Path, committed: Path) -> list[Pair]:
    """The steps that both folders of a profile hold, without 06_figures. Raises InputError where there are none."""
    found = []
    for path in sorted(here.rglob(paths.MANIFEST)):
        other = committed / path.relative_to(here)
        if other.exists() and paths.STAGES[-1] not in path.parts:
            found.append(tuple(Run(manifest.load(made), made.parent) for made in (path, other)))
    if not found:
        raise InputError(f"{here} and {committed} share no finished step: there is nothing to compare.")
    return found


def steps(found: list[Pair]) -> pd.DataFrame:
    """A row per stage and arm: step, steps, same_bytes, differing.

    same_bytes: how many wrote the same bytes, by their manifests' hashes (timing.csv aside). differing: names of the
    files that differ in any of the others, or "settings" where a step had other parameters.
    """
    rows: dict[str, dict] = {}
    for own, other in found:
        row = rows.setdefault(
            manifest.label(own.made.stage, own.made.arm), {"steps": 0, "same_bytes": 0, "differing": set()}
        )
        differing = _differing(own.made, other.made)
        row["steps"] += 1
        row["same_bytes"] += not differing
        row["differing"] |= differing
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("step").reset_index()
    return table.assign(differing=[", ".join(sorted(names)) for names in table["differing"]])


def averages(found: list[Pair]) -> pd.DataFrame:
    """Each arm's general average in both folders, in points: arm, committed, here, difference, low, high, seeds, same_answers.

    difference: here minus committed, on the seeds that both hold, paired by question; its interval is that of any two arms
    (`comparisons`). same_answers: share of completions that are the same text, in percent.
    """
    evaluated: dict[str, list[Pair]] = {}
    for pair in found:
        if pair[0].made.stage == "05_eval":
            evaluated.setdefault(pair[0].made.arm, []).append(pair)
    rows = []
    for arm in results.in_order(list(evaluated)):
        own, other = (
            pd.concat(map(_items, runs), ignore_index=True) for runs in zip(*evaluated[arm], strict=True)
        )
        asked = [set(zip(items["item_id"], items["sample"], strict=True)) for items in (own, other)]
        if asked[0] != asked[1]:
            raise InputError(
                f"Arm {arm} was asked other questions than in the committed run: compare runs with the same eval settings."
            )
        items = pd.concat([own.assign(arm=HERE), other.assign(arm=COMMITTED)], ignore_index=True)
        texts = items.pivot(index=["seed", "item_id", "sample"], columns="arm", values="completion")
        items = items[items["table"] == "general"]
        [apart] = comparisons.gains(items, [(HERE, COMMITTED)])
        mean = {name: 100 * tables.rate(items, name)[0].value for name in (COMMITTED, HERE)}
        same = 100 * (texts[HERE] == texts[COMMITTED]).mean()
        rows.append({"arm": arm, **mean, **apart, "seeds": len(evaluated[arm]), "same_answers": same})
    return pd.DataFrame(rows)


def text(profile: str, here: Path, committed: Path) -> str:
    """Both tables as Markdown. Raises InputError where the folders share no step."""
    found = pairs(here, committed)
    parts = [f"# Profile {profile}: this run beside the committed one", _machines(found)]
    shown = steps(found).rename(columns={"same_bytes": "the same bytes", "differing": "what differs"})
    parts.append(shown.to_markdown(index=False))
    if not (arms := averages(found)).empty:
        columns = {
            "general average, points": arms["arm"].map(results.label),
            COMMITTED: arms[COMMITTED].map("{:.1f}".format),
            HERE: arms[HERE].map("{:.1f}".format),
            "here minus committed": render.with_interval(arms, "difference", "low", "high"),
            "seeds": arms["seeds"],
            "same completions, %": arms["same_answers"].map("{:.0f}".format),
        }
        parts.append(pd.DataFrame(columns).to_markdown(index=False, disable_numparse=True))
        parts.append(
            f"Intervals: 95%, over questions and samples, {render.RESAMPLED}, and over training seeds where there are several."
        )
    return "\n\n".join(parts) + "\n"


def _differing(own: manifest.Manifest, other: manifest.Manifest) -> set[str]:
    if own.parameters != other.parameters:
        return {"settings"}
    names = (set(own.outputs) | set(other.outputs)) - {_TIMES}
    return {name for name in names if own.outputs.get(name) != other.outputs.get(name)}


def _items(run: Run) -> pd.DataFrame:
    items = pd.read_parquet(run.folder / "items.parquet")
    return items[items["verdict"] != "unscorable"].assign(seed=run.made.seed)


def _machines(found: list[Pair]) -> str:
    here, committed = zip(*found, strict=True)
    who = []
    for name, runs in ((COMMITTED, committed), (HERE, here)):
        processors = sorted({run.made.processor or "a processor that was not written down" for run in runs})
        commits = sorted({run.made.commit[:10] for run in runs})
        who.append(f"{name}: {', '.join(processors)} (commit {', '.join(commits)})")
    return "\n".join(f"- {line}" for line in who)


@command
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m dereason_utils.reproduction", description="A run beside the committed one."
    )
    parser.add_argument("--profile", required=True)
    options = parser.parse_args(arguments)
    name = profiles.load(options.profile).name
    here, committed = paths.results_root() / name, paths.committed() / name
    if here.resolve() == committed.resolve():
        raise InputError(
            "DEREASON_RESULTS names no other folder than results: make reproduce ANEW=1 sets it."
        )
    if not committed.exists():
        print(f"No run of profile {name} is committed that this one could be set beside.")
        return
    made = text(name, here, committed)
    disk.write_text(here / REPORT, made)
    print(made)


if __name__ == "__main__":
    sys.exit(main())
