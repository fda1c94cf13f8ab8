"""Where everything lives: the only home of folder and file names.

results/<profile>/<stage>[/<arm>][/seed<k>]/   what a step writes, with its manifest.json
papermill_runs/<profile>/<stage>[_<arm>][_seed<k>].ipynb   the executed notebook of that step

$DEREASON_RESULTS, $DEREASON_RUNS, $DEREASON_NOTEBOOKS and $DEREASON_CACHE move the four roots. Every name is
checked before it becomes part of a path: no value from data or the command line reaches outside its root.
"""

import os
import re
from pathlib import Path

from dereason_utils.errors import InputError

REPO = Path(__file__).resolve().parents[1]
STAGES = ("01_score", "02_split", "03_sft", "04_grpo", "05_eval", "06_figures")
SEEDED = ("02_split", "03_sft", "04_grpo", "05_eval")  # stages with one step per seed
ARMED = ("03_sft", "04_grpo", "05_eval")  # stages with one step per arm and seed
MANIFEST = "manifest.json"
# Outputs that need not be in git, because they are models or grow with a web corpus: where one is missing, its step counts
# as done until another step needs the file.
NOT_KEPT = (
    "policy", "completions.parquet", "problems.parquet", "sets.parquet", "answers.parquet", "replies.parquet",
)  # fmt: skip

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def results_root() -> Path:
    return Path(os.environ.get("DEREASON_RESULTS") or committed())


def runs_root() -> Path:
    return Path(os.environ.get("DEREASON_RUNS") or REPO / "papermill_runs")


def cache_root() -> Path:
    """Downloaded and converted models; may be shared by several checkouts."""
    return Path(os.environ.get("DEREASON_CACHE") or Path.home() / ".cache" / "dereason")


def committed() -> Path:
    """The results that stand in the repository, wherever a run writes its own: the paper's numbers and registrations too."""
    return REPO / "results"


def base_policies() -> Path:
    """Small base policies that are committed: another processor would make other weights of the same recipe."""
    return committed() / "base_policies"


def notebook_path(stage: str) -> Path:
    """The stage's notebook as it is written by hand, without outputs."""
    return Path(os.environ.get("DEREASON_NOTEBOOKS") or REPO / "notebooks") / f"{_stage(stage)}.ipynb"


def step_dir(profile: str, stage: str, arm: str | None = None, seed: int | None = None) -> Path:
    """The folder that one step writes into. Raises InputError for a bad name or a missing arm or seed."""
    return results_root().joinpath(_name("profile", profile), *_step_parts(stage, arm, seed))


def manifest_path(profile: str, stage: str, arm: str | None = None, seed: int | None = None) -> Path:
    return step_dir(profile, stage, arm, seed) / MANIFEST


def run_notebook_path(profile: str, stage: str, arm: str | None = None, seed: int | None = None) -> Path:
    return runs_root() / _name("profile", profile) / ("_".join(_step_parts(stage, arm, seed)) + ".ipynb")


def manifest_pattern(profile: str, stage: str) -> str:
    """`manifest_path` for the workflow engine: with '{arm}' and '{seed}' where the stage has them."""
    parts = [
        _stage(stage),
        *(["{arm}"] if stage in ARMED else []),
        *(["seed{seed}"] if stage in SEEDED else []),
    ]
    return str(results_root().joinpath(_name("profile", profile), *parts, MANIFEST))


def relative(path: Path) -> str:
    """The path as it is written into manifests: the same on every machine, whatever the roots are."""
    path = Path(path).resolve()
    for label, root in (("results", results_root()), ("cache", cache_root()), ("", REPO)):
        if path.is_relative_to(root.resolve()):
            return (Path(label) / path.relative_to(root.resolve())).as_posix()
    raise InputError(
        f"{path} is outside the repository, its results and its cache: copy it into the repository first."
    )


def _step_parts(stage, arm, seed):
    parts = [_stage(stage)]
    if (arm is not None) != (stage in ARMED):
        raise InputError(f"{stage} needs {'an' if stage in ARMED else 'no'} arm (got {arm!r}).")
    if (seed is not None) != (stage in SEEDED):
        raise InputError(f"{stage} needs {'a' if stage in SEEDED else 'no'} seed (got {seed!r}).")
    if arm is not None:
        parts.append(_name("arm", arm))
    if seed is not None:
        if type(seed) is not int or seed < 0:
            raise InputError(f"A seed is a whole number from 0 on (got {seed!r}).")
        parts.append(f"seed{seed}")
    return parts


def _stage(stage):
    if stage not in STAGES:
        raise InputError(f"Unknown stage {stage!r}: choose one of {', '.join(STAGES)}.")
    return stage


def _name(what, value):
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InputError(f"{value!r} cannot be the name of a {what}: use small letters, digits, '_' and '-'.")
    return value
