"""The graph of steps: which there are, what each reads, which are out of date and how long they took.

The Snakefile turns this into rules; the runner uses it to say how far a run is. Nothing here starts anything.
"""

import json
from pathlib import Path
from typing import NamedTuple

from dereason_utils import manifest, paths, profiles, sources
from dereason_utils.errors import InputError
from dereason_utils.split import ARMS, MATCHED_TO


class StepKey(NamedTuple):
    stage: str
    arm: str | None = None
    seed: int | None = None


def check(profile: profiles.Profile, key: StepKey) -> None:
    """Raise InputError unless the profile has this step."""
    if key.arm is not None and key.arm not in profile.arms:
        raise InputError(f"Unknown arm {key.arm!r}: profile {profile.name} has {', '.join(profile.arms)}.")
    if key.seed is not None and key.seed not in profile.seeds:
        raise InputError(
            f"Unknown seed {key.seed}: profile {profile.name} has {', '.join(map(str, profile.seeds))}; "
            f"add it with -o 'seeds=[...]'."
        )
    paths.step_dir(profile.name, *key)
    if key not in steps(profile):
        raise InputError(
            f"Arm {key.arm!r} has no {key.stage} step: it trains without it ({ARMS[key.arm].about})."
        )


def steps(profile: profiles.Profile) -> list[StepKey]:
    """Every step of a profile, each after those that it reads. Raises InputError for an arm that cannot be run."""
    for arm in profile.arms:
        if arm not in ARMS:
            raise InputError(
                f"Unknown arm {arm!r} in profile {profile.name}: choose among {', '.join(ARMS)}."
            )
        if ARMS[arm].matched and MATCHED_TO not in profile.arms:
            raise InputError(f"Arm {arm!r} is matched to {MATCHED_TO!r}: name that in `arms` too.")
    arms = sorted(profile.arms, key=lambda arm: ARMS[arm].matched is not None)
    found = [StepKey("01_score")]
    for seed in profile.seeds:
        found.append(StepKey("02_split", None, seed))
        for arm in arms:
            found += [StepKey("03_sft", arm, seed)] if ARMS[arm].sft else []
            found += [StepKey("04_grpo", arm, seed)] if ARMS[arm].rl else []
            found.append(StepKey("05_eval", arm, seed))
    return [*found, StepKey("06_figures")]


def earlier(profile: profiles.Profile, key: StepKey) -> list[StepKey]:
    """The steps whose results this one reads."""
    stage, arm, seed = key
    if stage == "01_score":
        return []
    if stage == "02_split":
        return [StepKey("01_score")]
    if stage == "06_figures":
        return [other for other in steps(profile) if other != key]
    split = StepKey("02_split", None, seed)
    sft = [StepKey("03_sft", arm, seed)] if ARMS[arm].sft else []
    rl = [StepKey("04_grpo", arm, seed)] if ARMS[arm].rl else []
    if stage == "03_sft":
        model = [StepKey(stage, MATCHED_TO, seed) for stage in ("03_sft", "04_grpo")]
        return [split, *(model if ARMS[arm].matched else [])]
    if stage == "04_grpo":
        return [split, *sft]
    return (rl or sft)[-1:] or [StepKey("01_score")]


# ---- how far a run is ----


def made_otherwise(profile: profiles.Profile) -> list[Path]:
    """Manifests of steps that other settings or other code than today's have made, and damaged ones.

    The workflow engine remembers only what it started itself; this also sees what was run by hand or cloned.
    """
    today = {s: (profiles.stage_settings(profile, s), sources.code_hash(s)) for s in paths.STAGES}
    found = []
    for key in steps(profile):
        path = paths.manifest_path(profile.name, *key)
        if not path.exists():
            continue
        manifest.refuse_other_format(path.parent)
        try:
            made = manifest.load(path)
            same = (made.parameters, made.code) == today[key.stage]
        except InputError:  # damaged
            same = False
        found += [] if same else [path]
    return found


def done(profile: profiles.Profile) -> set[StepKey]:
    """Steps with a manifest that is not older than those of the steps they read."""
    found: dict[StepKey, float] = {}
    for key in steps(profile):
        path = paths.manifest_path(profile.name, *key)
        before = earlier(profile, key)
        if path.exists() and all(other in found for other in before):
            when = path.stat().st_mtime
            if all(found[other] <= when for other in before):
                found[key] = when
    return set(found)


def seconds_left(profile: profiles.Profile, now: StepKey) -> float | None:
    """Estimate for `now` and all steps not done, from earlier executed notebooks; None when they do not tell.

    A step that never ran is taken to last as long as others of its stage.
    """
    took = {key: _duration(paths.run_notebook_path(profile.name, *key)) for key in steps(profile)}
    total = 0.0
    for key in set(took) - done(profile) | {now}:
        same = (
            [took[key]]
            if took[key]
            else [took[other] for other in took if other.stage == key.stage and took[other]]
        )
        if not same:
            return None
        total += sum(same) / len(same)
    return total


def _duration(notebook: Path) -> float | None:
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"]["duration"]
    except (OSError, ValueError, KeyError):  # an estimate is not worth an error
        return None
