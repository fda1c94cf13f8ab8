"""`make bench`: this project beside plain TRL and beside the machine's own ceiling, in one run.

Each variant of a task is a process of its own that keeps its model (with --quick, one for all tasks); the repetitions go round the variants in turn, so
that a slow minute of the machine meets all of them. A little warm-up before them is not counted. Writes
measurements.csv (a row per measurement and repetition), summary.csv, machine.csv and the roofline figure, which
`--draw` makes again from the CSV files alone.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from work import SIZES
from worker import MACHINE, TASKS, VARIANTS

from dereason_utils import disk, manifest, paths

HERE = Path(__file__).parent
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")
UNITS = {"rating": "items", "checker": "items"}  # what a rate counts; else tokens


class Worker:
    """A variant's process."""

    def __init__(self, variant: str, folder: Path, log):
        self.variant, self.log = variant, log
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), variant, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(),
        )  # fmt: skip

    def repeat(self, task: str, number: int) -> list[dict]:
        print(task, number, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{task}, {self.variant} stopped; its last words are in {self.log.name}.")
        return json.loads(line)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def environment() -> dict[str, str]:
    """The kernels' own settings, which the notebooks run with."""
    from dereason_utils.run import ENVIRONMENT

    return {**ENVIRONMENT, "TQDM_DISABLE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", **os.environ,
            "PYTHONPATH": str(paths.REPO)}  # fmt: skip


def stop(workers: dict[str, Worker]) -> None:
    while workers:
        workers.popitem()[1].stop()


def measure(size: str, log) -> pd.DataFrame:
    """All tasks' measurements; `log` takes what the libraries print."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="dereason-bench-") as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, str(HERE / "work.py"), size, name],
            check=True, stdout=log, stderr=log, env=environment(),
        )  # fmt: skip
        workers = {}
        for task in TASKS:
            began = time.monotonic()
            variants = (MACHINE, *VARIANTS[task])
            workers |= {name: Worker(name, folder, log) for name in variants if name not in workers}
            for number in range(SIZES[size].repetitions + 1):
                for variant in variants:
                    for row in workers[variant].repeat(task, number):
                        if number:
                            rows.append({"task": task, "variant": variant, "repetition": number} | row)
            if not SIZES[size].shared:
                stop(workers)
            print(f"{task}: {time.monotonic() - began:.0f} s", flush=True)
        stop(workers)
    table = pd.DataFrame(rows)
    counted = table["tokens"].where(table["tokens"] > 0, table["items"])
    counted = counted.mask(table["measure"].isin(UNITS), table["items"])
    counted = counted.where(table["variant"] != MACHINE, table["operations"] + table["bytes"])
    unit = ["items" if m in UNITS else "tokens" for m in table["measure"]]
    named = {
        "products_float32": "operations",
        "products_bfloat16": "operations",
        "copy": "bytes",
        "step": "seconds",
    }
    table["unit"] = [named.get(m, u) for m, u in zip(table["measure"], unit, strict=True)]
    table["per_second"] = counted / table["seconds"]
    return table.round({"seconds": 4, "per_second": 3, "operations": 0, "bytes": 0})


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """A row per task, measure and variant: median rate and its range, peak memory, and how many times as quick ours is.

    ours_is: the median over the repetitions of ours' rate over this variant's in the same round; with_all_groups: the
    same of `ours_all_groups`. A whole GRPO step is compared by its seconds, the others by what they do in a second,
    since samples differ in length.
    """
    rows = []
    for (task, name, variant), part in table.groupby(["task", "measure", "variant"], sort=False):
        same = table[(table["task"] == task) & (table["measure"] == name)].set_index("variant")
        value = part["seconds"] if name == "step" else part["per_second"]
        row = {"task": task, "measure": name, "variant": variant,
               "unit": "s a step" if name == "step" else f"{part['unit'].iloc[0]}/s", "median": value.median(),
               "lowest": value.min(), "highest": value.max(), "peak_mb": part["peak_mb"].max(),
               "repetitions": len(part)}  # fmt: skip
        for column, own in (("ours_is", "ours"), ("with_all_groups", "ours_all_groups")):
            if own in same.index and variant not in ("ours", "ours_all_groups", MACHINE):
                ours = same.loc[[own], value.name].to_numpy()
                ratio = value.to_numpy() / ours if name == "step" else ours / value.to_numpy()
                row |= {
                    column: np.median(ratio),
                    f"{column}_least": ratio.min(),
                    f"{column}_most": ratio.max(),
                }
        rows.append(row)
    found = pd.DataFrame(rows)
    first = ["task", "measure", "variant", "unit", "median", "lowest", "highest", "peak_mb", "repetitions"]
    return found[[*first, *(name for name in found if name not in first)]].round(3)


def machine_facts(size: str, begun: float) -> pd.DataFrame:
    """Name and value of what a rate depends on."""
    import torch

    cpu = Path("/proc/cpuinfo").read_text()
    flags = set(cpu.split("flags")[1].split("\n")[0].split())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    versions = manifest._versions()
    facts = {
        "size": size, "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": manifest._commit(), "cpu": cpu.split("model name")[1].split("\n")[0].strip("\t :"),
        "flags": " ".join(flag for flag in FLAGS if flag in flags), "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(), "memory_gb": round(memory, 1), "kernel": platform.release(),
        **{name: versions[name] for name in ("torch", "transformers", "trl", "peft", "unsloth") if name in versions},
        "minutes": round((time.monotonic() - begun) / 60, 1),
    }  # fmt: skip
    return pd.DataFrame(facts.items(), columns=["name", "value"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="the smoke profile's model, to see that all of it works"
    )
    parser.add_argument("--out", type=Path, default=paths.committed() / "bench")
    parser.add_argument("--draw", action="store_true", help="only draw the figure again")
    options = parser.parse_args()
    if not options.draw:
        begun, size = time.monotonic(), "quick" if options.quick else "full"
        options.out.mkdir(parents=True, exist_ok=True)
        log_name = Path(tempfile.gettempdir()) / f"dereason-bench-{os.getpid()}.log"
        with open(log_name, "w") as log:
            table = measure(size, log)
        disk.write_table(options.out / "measurements.csv", table)
        disk.write_table(options.out / "summary.csv", summarise(table))
        disk.write_table(options.out / "machine.csv", machine_facts(size, begun))
    import roofline

    print(pd.read_csv(options.out / "machine.csv").to_string(index=False, header=False), "\n")
    summary = pd.read_csv(options.out / "summary.csv")
    print(summary.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}"))
    print("\nWritten:", *roofline.draw(options.out), f"in {options.out}")


if __name__ == "__main__":
    main()
