"""What makes a step count as done.

A step is one notebook for one profile, arm and seed. Its first cell calls `begin`, its last cell `finish`,
which writes manifest.json last of all; a later step calls `require` before it reads anything:

    settings = profiles.stage_settings(profiles.load(profile, overrides), "03_sft")
    step = manifest.begin("03_sft", profile, arm, seed, parameters=settings)
    split = manifest.require(profile, "02_split", seed=seed)
    ...
    manifest.finish(step, inputs=[split], outputs=["steps.csv", "samples.parquet", "merged"])
"""

import fcntl
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pydantic

from dereason_utils import disk, paths, processor, sources
from dereason_utils.errors import InputError

FORMAT_VERSION = 1  # raised when the columns or the meaning of a result file change
LOCK = ".lock"
LOCK_PATIENCE = 4.0  # seconds: a kernel whose runner was killed needs up to 2 to notice it
PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "unsloth", "unsloth_zoo", "vllm",
    "bitsandbytes", "tokenizers", "safetensors", "numpy", "scipy", "pandas", "pyarrow", "sympy",
    "math-verify", "pint", "reasoning_gym", "papermill", "snakemake",
)  # fmt: skip

_locks: dict[Path, IO] = {}  # this process's locks: a first cell that is run again must not meet its own lock


class Output(pydantic.BaseModel):
    sha256: str
    bytes: int


class Manifest(pydantic.BaseModel):
    """The proof that a step ended. Inputs are named from the repository's root, outputs from the step's."""

    model_config = pydantic.ConfigDict(extra="forbid")

    format_version: int
    stage: str
    profile: str
    arm: str | None
    seed: int | None
    parameters: dict
    code: str  # hash: `sources.code_hash`
    inputs: dict[str, str]
    outputs: dict[str, Output]
    versions: dict[str, str]
    commit: str
    wall_s: float
    peak_memory_mb: float
    cores: int | None = None  # that the step could use; None: made before this was written down
    processor: str | None = None  # decides how products round; None: made before this was written down
    finished: datetime  # UTC

    @property
    def folder(self) -> Path:
        return paths.step_dir(self.profile, self.stage, self.arm, self.seed)


@dataclass(frozen=True)
class Step:
    """A step that has begun and holds its folder's lock; it is done when `finish` has been called."""

    stage: str
    profile: str
    arm: str | None
    seed: int | None
    parameters: dict
    folder: Path
    code: str
    commit: str
    begun: float = field(default_factory=time.monotonic)

    @property
    def label(self) -> str:
        """For progress lines: '04_grpo dereason seed 0'."""
        return label(self.stage, self.arm, self.seed)


def begin(
    stage: str,
    profile: str,
    arm: str | None = None,
    seed: int | None = None,
    *,
    parameters: dict,
    need_bytes: int = 0,
) -> Step:
    """Open a step's folder for writing, take its lock and remove an older manifest.

    parameters: the settings that the result depends on (`profiles.stage_settings`). need_bytes: free disk
    that the step wants. Raises InputError when the folder is in use, cannot be written, holds results of
    another format version or is on a disk that is too full.
    """
    folder = paths.step_dir(profile, stage, arm, seed)
    with disk.errors(folder / LOCK):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
            raise InputError(
                f"{folder} cannot be made ({error.strerror}): choose another folder with DEREASON_RESULTS."
            ) from error
        hold(folder)
        free = shutil.disk_usage(folder).free
        if free < need_bytes:
            raise InputError(
                f"{label(stage, arm, seed)} needs {need_bytes / 1e9:.1f} GB of free disk and {folder} has "
                f"{free / 1e9:.1f} GB: free some and give the same command again."
            )
        refuse_other_format(folder)
        (folder / paths.MANIFEST).unlink(missing_ok=True)
        # Left by runs that were killed: under the lock, nobody else is writing.
        for rubbish in folder.glob(f"{disk.TEMPORARY}*"):
            shutil.rmtree(rubbish) if rubbish.is_dir() else rubbish.unlink()
    return Step(stage, profile, arm, seed, parameters, folder, sources.code_hash(stage), _commit())


def finish(step: Step, inputs: Sequence[Manifest | Path | str] = (), outputs: Sequence[str] = ()) -> Manifest:
    """Hash everything and write manifest.json, last and whole; then let go of the folder.

    inputs: manifests that `require` returned, and other files. outputs: names of files and folders in
    `step.folder`.
    """
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        stage=step.stage,
        profile=step.profile,
        arm=step.arm,
        seed=step.seed,
        parameters=json.loads(json.dumps(step.parameters)),
        code=step.code,
        inputs=_hash_inputs(inputs),
        outputs=_hash_outputs(step.folder, outputs),
        versions=_versions(),
        commit=step.commit,
        wall_s=round(time.monotonic() - step.begun, 1),
        peak_memory_mb=round(peak_memory() / 2**20),
        cores=threads(),
        processor=processor.described(*processor.info()),
        finished=datetime.now(UTC).replace(microsecond=0),
    )
    disk.write_text(step.folder / paths.MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    release(step.folder)
    return manifest


def require(
    profile: str,
    stage: str,
    arm: str | None = None,
    seed: int | None = None,
    outputs: Sequence[str] | None = None,
) -> Manifest:
    """The manifest of an earlier step, after its outputs (all, or the named ones) were checked against it.

    Raises InputError, with the command that makes the step, when it is missing, damaged or of another format.
    """
    path = paths.manifest_path(profile, stage, arm, seed)
    make = f"make it with `{command(profile, stage, arm, seed)}`"
    if not path.exists():
        raise InputError(f"{label(stage, arm, seed)} of profile {profile} has not been run yet: {make}.")
    refuse_other_format(path.parent)
    manifest = load(path, f"{make} again")
    if (manifest.profile, manifest.stage, manifest.arm, manifest.seed) != (profile, stage, arm, seed):
        raise InputError(
            f"{path} is the manifest of {label(manifest.stage, manifest.arm, manifest.seed)} of profile "
            f"{manifest.profile}, so its folder was moved or copied: {make} again."
        )
    for name in manifest.outputs if outputs is None else outputs:
        if name not in manifest.outputs:
            raise InputError(f"{path} records no output {name!r}: {make} again.")
        _check_output(path.parent / name, manifest.outputs[name], make)
    return manifest


def damage(made: Manifest) -> str:
    """What is wrong with the files of a finished step, in half a sentence; nothing if they are as its manifest says.

    A file of paths.NOT_KEPT may be missing. Of a model its size is compared alone: `require` reads it whole.
    """
    for name, recorded in made.outputs.items():
        path = made.folder / name
        if not path.exists():
            if name not in paths.NOT_KEPT:
                return f"{name} is missing"
        elif path.is_dir():
            if sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) != recorded.bytes:
                return f"{name} has another size than its manifest says"
        elif disk.digest(path) != (recorded.sha256, recorded.bytes):
            return f"{name} is not the file that its manifest describes"
    return ""


def load(path: Path, remedy: str = "make the step again") -> Manifest:
    """Read one manifest. Raises InputError when it is not one."""
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (pydantic.ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {remedy}.") from error


def label(stage: str, arm: str | None = None, seed: int | None = None) -> str:
    return " ".join([stage, *([arm] if arm else []), *([f"seed {seed}"] if seed is not None else [])])


def command(
    profile: str,
    stage: str,
    arm: str | None = None,
    seed: int | None = None,
    overrides: Mapping[str, object] | None = None,
) -> str:
    """The shell command that runs one step, with the values that it replaces in the profile."""
    parts = [f"python -m dereason_utils.run {stage} --profile {profile}"]
    parts += [f"--arm {arm}"] if arm is not None else []
    parts += [f"--seed {seed}"] if seed is not None else []
    for name, value in (overrides or {}).items():
        parts.append("-o " + shlex.quote(f"{name}={json.dumps(value, separators=(',', ':'))}"))
    return " ".join(parts)


def hold(folder: Path) -> None:
    """Take the folder's lock until `release` or this process's death. Raises InputError if another has it.

    A POSIX record lock: it is freed whatever kills the process, and worker processes do not inherit it.
    """
    release(folder)
    file = open(folder / LOCK, "w")  # noqa: SIM115 (closing the file would let go of the lock)
    give_up = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except (BlockingIOError, PermissionError):
            if time.monotonic() > give_up:
                file.close()
                raise InputError(
                    f"Another run is writing to {folder}: wait until it ends, or stop it."
                ) from None
            time.sleep(0.2)
    _locks[folder] = file


def release(folder: Path) -> None:
    if folder in _locks:
        _locks.pop(folder).close()


def threads() -> int:
    """Cores that this process computes on: those that it may use, or fewer where OMP_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(told)) if told.isdecimal() and int(told) else cores


def peak_memory() -> int:
    """Bytes of the largest resident size this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def refuse_other_format(folder: Path) -> None:
    """Look at the version alone: a manifest of another version need not fit today's `Manifest`."""
    path = folder / paths.MANIFEST
    if not path.exists():
        return
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["format_version"]
    except (ValueError, KeyError, TypeError):
        return  # damaged: `require` says so, and `begin` replaces it
    if version != FORMAT_VERSION:
        raise InputError(
            f"{folder} was written in format version {version} and this is version {FORMAT_VERSION}: move "
            "the folder away, or check out the commit that made it."
        )


def _check_output(path: Path, recorded: Output, make: str) -> None:
    if not path.exists():
        raise InputError(f"{path} is missing: {make}.")
    sha256, size = disk.digest(path)
    if size != recorded.bytes:
        raise InputError(f"{path} has {size} bytes and its manifest says {recorded.bytes}: {make} again.")
    if sha256 != recorded.sha256:
        raise InputError(f"{path} is not the file that its manifest describes (other content): {make} again.")


def _hash_inputs(inputs) -> dict[str, str]:
    hashed = {}
    for entry in inputs:
        path = entry.folder / paths.MANIFEST if isinstance(entry, Manifest) else Path(entry)
        hashed[paths.relative(path)] = disk.digest(path)[0]
    return dict(sorted(hashed.items()))


def _hash_outputs(folder: Path, names: Sequence[str]) -> dict[str, Output]:
    outputs = {}
    for name in sorted(names):
        path = folder / name
        if not path.exists():
            raise InputError(
                f"{path} was promised as an output and is not there: run the notebook from its first cell."
            )
        sha256, size = disk.digest(path)
        outputs[name] = Output(sha256=sha256, bytes=size)
    return outputs


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):  # vllm, for one, is only there on a GPU
            found[package] = importlib.metadata.version(package)
    return found


def _commit() -> str:
    """The checked-out commit, with '-dirty' when the code (not the results) differs from it."""

    def git(*words):
        line = ["git", "--no-optional-locks", "-C", paths.REPO, *words]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    if shutil.which("git") is None or (head := git("rev-parse", "--verify", "HEAD")).returncode:
        return "unknown"
    changed = git("status", "--porcelain", "--", ".", ":!results", ":!papermill_runs").stdout
    return head.stdout.strip() + ("-dirty" if changed.strip() else "")
