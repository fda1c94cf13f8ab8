"""The graph of steps: which there are, what each reads, which are out of date and how long they took.

The Snakefile turns this into rules; the runner uses it to say how far a run is. Nothing here starts anything.
"""

import itertools
import json
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from dereason_utils import disk, manifest, paths, profiles, sources
from dereason_utils.errors import InputError
from dereason_utils.split import ARMS, MATCHED_TO, PAPER, seeds_of, sft_of


class StepKey(NamedTuple):
    stage: str
    arm: str | None = None
    seed: int | None = None


def check(profile: profiles.Profile, key: StepKey) -> None:
    """Raise InputError unless the profile has this step."""
    found = steps(profile)
    if key.arm is not None and key.arm not in {*profile.arms, *(step.arm for step in found)}:
        raise InputError(f"Unknown arm {key.arm!r}: profile {profile.name} has {', '.join(profile.arms)}.")
    if key.seed is not None and key.seed not in profile.seeds:
        raise InputError(
            f"Unknown seed {key.seed}: profile {profile.name} has {', '.join(map(str, profile.seeds))}; "
            f"add it with -o 'seeds=[...]'."
        )
    paths.step_dir(profile.name, *key)
    if key in found:
        return
    own = seeds_of(key.arm, profile.seeds, profile.other_seeds)
    if key.stage == "03_sft" and sft_of(key.arm) not in (None, key.arm):
        why = f"it goes on from the SFT of {sft_of(key.arm)!r}, which is the same"
    elif key.seed not in own and key.stage == "05_eval":
        why = f"of its runs there are those of the seeds {', '.join(map(str, own))}"
    else:
        why = f"it trains without it ({ARMS[key.arm].about})"
    raise InputError(f"Arm {key.arm!r} has no {key.stage} step for seed {key.seed}: {why}.")


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
    found = {StepKey("01_score"): None}  # a dict keeps the order and holds a shared SFT once
    for seed in profile.seeds:
        found[StepKey("02_split", None, seed)] = None
        for arm in arms:
            if seed in seeds_of(arm, profile.seeds, profile.other_seeds):
                found |= dict.fromkeys([*trained(arm, seed), StepKey("05_eval", arm, seed)])
    return [*found, StepKey("06_figures")]


def trained(arm: str, seed: int) -> list[StepKey]:
    """The steps that train an arm, the last of which makes its policy; none for the base model."""
    sft = [StepKey("03_sft", sft_of(arm), seed)] if ARMS[arm].sft else []
    return [*sft, *([StepKey("04_grpo", arm, seed)] if ARMS[arm].rl else [])]


def earlier(profile: profiles.Profile, key: StepKey) -> list[StepKey]:
    """The steps whose results this one reads: the inputs of its manifest."""
    stage, arm, seed = key
    scored, taught = StepKey("01_score"), StepKey("02_split", None, profile.seeds[0])
    if stage == "01_score":
        return []
    if stage == "02_split":  # the teacher answers once, for all seeds
        return [scored, *([taught] if seed != profile.seeds[0] else [])]
    if stage == "06_figures":
        return [other for other in steps(profile) if other != key]
    if stage == "05_eval":
        return [scored, *trained(arm, seed)[-1:]]
    split = StepKey("02_split", None, seed)
    if stage == "04_grpo":
        return [scored, split, *trained(arm, seed)[:-1]]
    return [
        scored,
        *dict.fromkeys([split, taught]),
        *(trained(MATCHED_TO, seed) if ARMS[arm].matched else []),
    ]


def not_kept(profile: profiles.Profile, key: StepKey) -> list[tuple[StepKey, str]]:
    """The files that this step reads and that git does not keep: the step that makes each, and its name."""
    stage, arm, seed = key
    corpus = (StepKey("01_score"), "problems.parquet")
    sets = (StepKey("02_split", None, seed), "sets.parquet")
    answers = (StepKey("02_split", None, profile.seeds[0]), "answers.parquet")
    match stage:
        case "02_split":
            return [corpus, answers] if seed != profile.seeds[0] else [corpus]
        case "03_sft":
            return [corpus, sets, answers]
        case "04_grpo":
            return [corpus, sets, *((made, "policy") for made in trained(arm, seed)[:-1])]
        case "05_eval":
            return [corpus, *((made, "policy") for made in trained(arm, seed)[-1:])]
    return []


# ---- how far a run is ----


def to_do(profile: profiles.Profile, wanted: Collection[StepKey]) -> dict[StepKey, str]:
    """The steps to be run so that the wanted ones are done, each with the reason, from what the results folder holds.

    So a clone goes on from what is committed. A step is done when its manifest names today's settings and code and the
    very manifests it reads, and its files are as it says. A file that git does not keep (paths.NOT_KEPT) may be missing: its step
    runs again only when a step that is to be run reads it. What reads a step that runs again runs again.
    """
    below = set(wanted)
    for key in reversed(steps(profile)):
        below |= set(earlier(profile, key)) if key in below else set()
    keys = [key for key in steps(profile) if key in below]
    today = {
        stage: (profiles.stage_settings(profile, stage), sources.code_hash(stage)) for stage in paths.STAGES
    }
    found = {key: reason for key in keys if (reason := _why(profile, key, today[key.stage]))}
    more = True
    while more:
        for key in keys:
            if any(other in found for other in earlier(profile, key)):
                found.setdefault(key, "what it reads is made again")
        more = {
            step: f"{name} is not here, and {manifest.label(*key)} needs it"
            for key in found
            for step, name in not_kept(profile, key)
            if step not in found and not (paths.step_dir(profile.name, *step) / name).exists()
        }
        found |= more
    return {key: found[key] for key in keys if key in found}


def _why(profile: profiles.Profile, key: StepKey, today: tuple[dict, str]) -> str:
    """Why a step is not done, looking at itself and at what it read; nothing if it is."""
    path = paths.manifest_path(profile.name, *key)
    if not path.exists():
        return "it was not run yet, or not to its end"
    manifest.refuse_other_format(path.parent)
    try:
        made = manifest.load(path)
    except InputError:
        return "its manifest is damaged"
    if (made.parameters, made.code) != today:
        return "it was made with other settings or code"
    if made.inputs != _inputs(profile, key):
        return "it was made from other results"
    return manifest.damage(made)


def _inputs(profile: profiles.Profile, key: StepKey) -> dict[str, str]:
    """What the manifest of a step that were run now would name as inputs."""
    read = [paths.manifest_path(profile.name, *other) for other in earlier(profile, key)]
    return {paths.relative(path): disk.sha256_file(path) for path in read if path.exists()}


def done(profile: profiles.Profile) -> set[StepKey]:
    """Steps with a manifest that names those of the steps they read; a quick look, `to_do` decides."""
    found = set()
    for key in steps(profile):
        path = paths.manifest_path(profile.name, *key)
        if path.exists() and all(other in found for other in earlier(profile, key)):
            try:
                same = manifest.load(path).inputs == _inputs(profile, key)
            except InputError:
                same = False
            found |= {key} if same else set()
    return found


def so_far(profile: profiles.Profile) -> dict[str, object]:
    """Overrides `seeds`, `other_seeds` and `arms` under which every step was run; none where the profile is done.

    So a study that goes on seed by seed can be drawn at any time: the first seeds that all of the paper's arms have, and of
    them the first that the other arms have too, without those that have not even the first. Raises InputError where no seed
    has all of the paper's arms, or all arms where there is none of these.
    """

    def was_run(arm: str, seed: int) -> bool:
        steps = [StepKey("02_split", None, seed), *trained(arm, seed), StepKey("05_eval", arm, seed)]
        return all(paths.manifest_path(profile.name, *key).exists() for key in steps)

    def in_a_row(arms: Collection[str]) -> int:
        own = {arm: seeds_of(arm, profile.seeds, profile.other_seeds) for arm in arms}
        whole = (all(was_run(arm, seed) for arm in arms if seed in own[arm]) for seed in profile.seeds)
        return sum(itertools.takewhile(bool, whole))

    papers = [arm for arm in profile.arms if arm in PAPER and trained(arm, profile.seeds[0])]
    seeds = in_a_row(papers or profile.arms)
    arms = [arm for arm in profile.arms if arm in PAPER or not papers or was_run(arm, profile.seeds[0])]
    others = in_a_row([arm for arm in arms if arm not in PAPER])
    if not seeds:
        raise InputError(
            f"No seed of profile {profile.name} has all its arms yet: run one to the end "
            f"(`make reproduce PROFILE={profile.name} SEED={profile.seeds[0]}`), or choose with -o 'arms=[...]'."
        )
    drawn = {"seeds": list(profile.seeds[:seeds])} if seeds < len(profile.seeds) else {}
    drawn |= {"other_seeds": others} if others < seeds else {}
    return drawn | ({"arms": arms} if len(arms) < len(profile.arms) else {})


def told(whole: profiles.Profile, part: profiles.Profile) -> str:
    """Of a study the part that was run, as the end of a sentence: its seeds, and the arms that it lacks."""
    fewer = part.other_seeds is not None and set(part.arms) - set(PAPER)
    others = f" ({part.other_seeds} for the arms that the paper lacks)" if fewer else ""
    left_out = [arm for arm in whole.arms if arm not in part.arms]
    without = f", without the arms {', '.join(left_out)}" if left_out else ""
    return f"{len(part.seeds)} of its {len(whole.seeds)} training seeds were run{others}{without}."


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
    return total / profile.steps_at_once


def _duration(notebook: Path) -> float | None:
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"]["duration"]
    except (OSError, ValueError, KeyError):  # an estimate is not worth an error
        return None
