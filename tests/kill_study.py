"""Kills a smoke study at random moments in every stage and compares what it ends with to a study left alone.

    python tests/kill_study.py            30 kills: five in each of the six stages; about 20 minutes on two free cores
    python tests/kill_study.py --stages 04_grpo --kills 1          up to this stage only, killed in it once

SIGKILL hits in turn the kernel, the runner (papermill) and the workflow engine (Snakemake), at a moment drawn from the
stage's own work, with kernels and imports behind it. After each kill the same command is given again, so that a stage
goes on from what it had saved and is killed again. In the end every table, picture and weight must have the bytes of
the reference. results/robustness/kills.csv has a row per kill: stage, target, seconds (since the stage's kernel
started), resumed_from (what the killed stage had saved) and identical (the stage's files are the reference's).

Manifests and timing.csv tell times, so they differ; checkpoints are no results. Change and commit nothing meanwhile:
the figures name the commit. Not collected by pytest: tests/test_kill.py is the small version that is.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from dereason_utils import disk, manifest, paths, profiles, training, workflow

TARGETS = ("kernel", "runner", "engine")
WORD = {"kernel": "ipykernel_launcher", "runner": "dereason_utils.run"}  # in the process's command line
# Two arms, one of them with every stage; small batches, so that an evaluation has several to go on from.
OVERRIDES = {"arms": ["base", "dereason"], "eval.batch_size": 32}
SMOKE = profiles.load("smoke", OVERRIDES)
# The one step of each stage that is killed.
STEPS = {key.stage: key for key in workflow.steps(SMOKE) if key.arm in (None, "dereason")}
NO_RESULTS = (paths.MANIFEST, manifest.LOCK, "timing.csv")


class Study:
    """The results of one study in a folder of its own, and the command that makes them up to a stage."""

    def __init__(self, root: Path):
        self.root = root
        self.log = root / "log.txt"
        self.environment = os.environ | {
            "DEREASON_RESULTS": str(root / "results"),
            "DEREASON_RUNS": str(root / "runs"),
        }
        root.mkdir(parents=True)

    def folder(self, stage: str) -> Path:
        """Of the stage's step that is killed."""
        named = paths.step_dir("smoke", *STEPS[stage]).relative_to(paths.results_root())
        return self.root / "results" / named

    def notebook(self, stage: str) -> Path:
        named = paths.run_notebook_path("smoke", *STEPS[stage]).relative_to(paths.runs_root())
        return self.root / "runs" / named

    def start(self, stage: str) -> subprocess.Popen:
        """The workflow engine, as in the Makefile, up to the stage's step."""
        line = [
            sys.executable, "-m", "snakemake", "--cores", "all", "--nolock", "--ignore-incomplete",
            "--rerun-triggers", "mtime", "--quiet", "all", "--directory", str(self.root),
            "--snakefile", str(paths.REPO / "Snakefile"), str(self.folder(stage) / paths.MANIFEST),
            "--config", "profile=smoke", f"overrides={json.dumps(OVERRIDES)}",
        ]  # fmt: skip
        with open(self.log, "a") as log:
            return subprocess.Popen(
                line, cwd=paths.REPO, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self, engine: subprocess.Popen) -> None:
        """For the end of a command that was not killed."""
        if engine.wait():
            sys.exit(f"The command failed without being killed; {self.log} says why.")


def kill(study: Study, stage: str, target: str, moment: float) -> float | None:
    """Give the command and kill its target `moment` seconds after the stage's kernel started, with SIGKILL.

    Returns the seconds, or None when the stage had ended before.
    """
    engine = study.start(stage)
    while (kernel := find(engine.pid, "kernel", stage)) is None and engine.poll() is None:
        time.sleep(0.02)
    begun = time.monotonic()
    while time.monotonic() - begun < moment and engine.poll() is None:
        time.sleep(0.02)
    victim = psutil.Process(engine.pid) if target == "engine" else find(engine.pid, target, stage)
    if kernel is None or victim is None or (study.folder(stage) / paths.MANIFEST).exists():
        study.wait(engine)
        return None
    seconds = time.monotonic() - begun
    with suppress(psutil.NoSuchProcess):  # it ended at this very moment
        victim.kill()
    return seconds if engine.wait() else None


def find(engine: int, target: str, stage: str) -> psutil.Process | None:
    """The kernel or the runner of the stage among the descendants of the workflow engine."""
    try:
        below = psutil.Process(engine).children(recursive=True)
        runners = [process for process in below if _says(process, WORD["runner"], stage)]
        if target == "runner" or not runners:
            return next(iter(runners), None)
        return next((child for child in runners[0].children() if _says(child, WORD["kernel"])), None)
    except psutil.NoSuchProcess:
        return None


def _says(process: psutil.Process, *words: str) -> bool:
    line = process.cmdline()
    return all(word in line for word in words)


def saved(folder: Path) -> str:
    """What a killed step will go on from."""
    if batches := len(list(folder.glob("checkpoints/batch-*.parquet"))):
        return f"{batches} batches"
    phases = sorted(folder.glob("checkpoints/phase*"), reverse=True)
    found = [training.last_whole_checkpoint(work) for work in (*phases, folder / "judge")]
    return next((Path(path).name for path in found if path), "start")


def made(folder: Path) -> dict[str, str]:
    """Hash of every result below a folder, by its name there."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in NO_RESULTS
        and not {"checkpoints", "judge"} & set(path.relative_to(folder).parts)
    ]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differing(one: Path, other: Path) -> list[str]:
    """Names of results that are not in both folders or not the same there."""
    a, b = made(one), made(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def kill_stage(study: Study, reference: Study, stage: str, kills: int, first: int, rng) -> list[dict]:
    """Kill a stage's step `kills` times, each time after it had gone on, then let it end. A row per kill."""
    whole = json.loads(reference.notebook(stage).read_text())["metadata"]["papermill"]["duration"]
    work = manifest.load(reference.folder(stage) / paths.MANIFEST).wall_s
    rows = []
    while len(rows) < kills:
        target = TARGETS[(first + len(rows)) % len(TARGETS)]
        seconds = kill(study, stage, target, rng.uniform(whole - work, whole))
        if seconds is None:  # what was saved had left too little to do: all over again
            (study.folder(stage) / paths.MANIFEST).unlink(missing_ok=True)
            continue
        resumed_from = saved(study.folder(stage))
        rows.append({"stage": stage, "target": target, "seconds": seconds, "resumed_from": resumed_from})
        print(f"{stage}: {target} killed after {seconds:.1f} s, goes on from {resumed_from}", flush=True)
    study.wait(study.start(stage))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stages", nargs="+", default=list(paths.STAGES), choices=paths.STAGES, metavar="STAGE"
    )
    parser.add_argument("--kills", type=int, default=5, help="in each stage")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="for both studies; a temporary one if not given")
    options = parser.parse_args()
    root = options.folder or Path(tempfile.mkdtemp(prefix="dereason-kills-"))
    rng = np.random.default_rng(options.seed)
    reference, killed = Study(root / "reference"), Study(root / "killed")
    print(f"reference run in {reference.root}", flush=True)
    reference.wait(reference.start(options.stages[-1]))
    rows = []
    for stage in options.stages:
        rows += kill_stage(killed, reference, stage, options.kills, len(rows), rng)
    killed.wait(killed.start(options.stages[-1]))

    same = {stage: not differing(killed.folder(stage), reference.folder(stage)) for stage in options.stages}
    table = pd.DataFrame(rows).round({"seconds": 1}).assign(identical=lambda rows: rows["stage"].map(same))
    disk.write_table(paths.results_root() / "robustness" / "kills.csv", table)
    others = differing(killed.root / "results", reference.root / "results")
    compared = len(made(reference.root / "results"))
    print(
        f"{len(table)} kills in {len(same)} stages: {compared - len(others)} of {compared} files are identical to "
        f"the reference's{': not ' + ', '.join(others) if others else ''}"
    )
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
