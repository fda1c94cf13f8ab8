"""A run of one's own beside the committed one: what is the same byte for byte, and how far apart the arms are where it is not.

    make reproduce ANEW=1 [PROFILE=...]     trains everything again, into reproduced/, and ends with
    DEREASON_RESULTS=reproduced/results python -m dereason_utils.reproduction --profile cpu

which prints two tables and writes them to reproduced/results/<profile>/reproduction.md. The same processor gives the same bytes;
another one rounds differently, and each training then goes its own way.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from dereason_utils import comparisons, disk, manifest, paths, profiles, render, results, tables
from dereason_utils.errors import InputError, command

REPORT = "reproduction.md"
HERE, COMMITTED = "here", "committed"
_TIMES = "timing.csv"  # no two runs take as long


def steps(here: Path, committed: Path) -> pd.DataFrame:
    """Steps that both folders of a profile hold, a row per stage and arm: step, steps, same_bytes, differing.

    same_bytes: how many wrote the same bytes, by their manifests' hashes (timing.csv and 06_figures aside). differing: names of the
    files that differ in any of the others, or "settings" where a step had other parameters.
    """
    rows: dict[str, dict] = {}
    for own, other in _pairs(here, committed):
        row = rows.setdefault(
            manifest.label(own.stage, own.arm), {"steps": 0, "same_bytes": 0, "differing": set()}
        )
        differing = _differing(own, other)
        row["steps"] += 1
        row["same_bytes"] += not differing
        row["differing"] |= differing
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("step").reset_index()
    return table.assign(differing=[", ".join(sorted(names)) for names in table["differing"]])


def averages(here: Path, committed: Path) -> pd.DataFrame:
    """Each arm's general average in both folders, in points: arm, committed, here, difference, low, high, seeds, same_answers.

    difference: here minus committed, on the seeds that both hold, paired by question; its interval is that of any two arms
    (`comparisons`). same_answers: share of completions that are the same text, in percent.
    """
    rows = []
    for arm, seeds in _evaluated(here, committed).items():
        both = {
            name: pd.concat([_items(root, arm, seed) for seed in seeds], ignore_index=True)
            for name, root in ((HERE, here), (COMMITTED, committed))
        }
        asked = [set(zip(items["item_id"], items["sample"], strict=True)) for items in both.values()]
        if asked[0] != asked[1]:
            raise InputError(
                f"Arm {arm} was asked other questions than in {committed}: compare runs with the same eval settings."
            )
        items = pd.concat([items.assign(arm=name) for name, items in both.items()], ignore_index=True)
        texts = items.pivot(index=["seed", "item_id", "sample"], columns="arm", values="completion")
        items = items[items["table"] == "general"]
        [apart] = comparisons.gains(items, [(HERE, COMMITTED)], arm)
        mean = {name: 100 * tables.rate(items, name, arm)[0].value for name in (COMMITTED, HERE)}
        same = 100 * (texts[HERE] == texts[COMMITTED]).mean()
        rows.append({"arm": arm, **mean, **apart, "seeds": len(seeds), "same_answers": same})
    return pd.DataFrame(rows)


def text(profile: str, here: Path, committed: Path) -> str:
    """Both tables as Markdown. Raises InputError where the folders share no step."""
    compared = steps(here, committed)
    parts = [f"# Profile {profile}: this run beside the committed one", _machines(here, committed)]
    shown = compared.rename(columns={"same_bytes": "the same bytes", "differing": "what differs"})
    parts.append(shown.to_markdown(index=False))
    if not (arms := averages(here, committed)).empty:
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
            "Intervals: 95%, over questions and samples, problem families resampled as wholes, and over training seeds where there are several."
        )
    return "\n\n".join(parts) + "\n"


def _pairs(here: Path, committed: Path) -> list[tuple[manifest.Manifest, manifest.Manifest]]:
    found = []
    for path in sorted(here.rglob(paths.MANIFEST)):
        other = committed / path.relative_to(here)
        if other.exists() and paths.STAGES[-1] not in path.parts:
            found.append((manifest.load(path), manifest.load(other)))
    if not found:
        raise InputError(f"{here} and {committed} share no finished step: there is nothing to compare.")
    return found


def _differing(own: manifest.Manifest, other: manifest.Manifest) -> set[str]:
    if own.parameters != other.parameters:
        return {"settings"}
    names = (set(own.outputs) | set(other.outputs)) - {_TIMES}
    return {name for name in names if own.outputs.get(name) != other.outputs.get(name)}


def _evaluated(here: Path, committed: Path) -> dict[str, list[int]]:
    """The seeds of each arm that both folders evaluated, in the paper's order of arms."""
    seeds: dict[str, list[int]] = {}
    for own, _ in _pairs(here, committed):
        if own.stage == "05_eval":
            seeds.setdefault(own.arm, []).append(own.seed)
    return {arm: seeds[arm] for arm in results.in_order(list(seeds))}


def _items(root: Path, arm: str, seed: int) -> pd.DataFrame:
    items = pd.read_parquet(root / "05_eval" / arm / f"seed{seed}" / "items.parquet")
    return items[items["verdict"] != "unscorable"].assign(seed=seed)


def _machines(here: Path, committed: Path) -> str:
    pairs = _pairs(here, committed)
    who = []
    for name, made in ((COMMITTED, [other for _, other in pairs]), (HERE, [own for own, _ in pairs])):
        processors = sorted({step.processor or "a processor that was not written down" for step in made})
        commits = sorted({step.commit[:10] for step in made})
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
    here, committed = paths.results_root() / name, paths.REPO / "results" / name
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
