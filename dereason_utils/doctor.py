"""What is wrong with an installation, in one screen: `make doctor`, of a GPU's `make doctor PROFILE=single_gpu`.

It needs no package beside Python's own, because they may be what is missing. Each line is ok, a warning (it runs, slower or not everything) or wrong, with what to do. Exit status 1 if one is wrong.
"""

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from dereason_utils import paths, processor
from dereason_utils.errors import first_line

PYTHONS = ((3, 11), (3, 14))  # from, below: pyproject.toml
DISK_GB, MEMORY_GB = 4, 8  # of the `cpu` profile: README
GB = 1e9
HUB = "https://huggingface.co"
CPU_LOCK, GPU_LOCK = "requirements-cpu.lock", "requirements-gpu.lock"


class Finding(NamedTuple):
    level: Literal["ok", "warning", "wrong"]
    what: str
    said: str


def python(version: tuple[int, ...]) -> Finding:
    shown = ".".join(map(str, version[:3]))
    if PYTHONS[0] <= version[:2] < PYTHONS[1]:
        return Finding("ok", "Python", shown)
    return Finding(
        "wrong", "Python", f"{shown}: use 3.11 (the locks are made for it): make setup PYTHON=python3.11"
    )


def pins(lock: str) -> dict[str, str]:
    """{name: version} of a lock file's text; names as packages compare them (lower case, '-')."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s#;]+)", lock, flags=re.MULTILINE)
    return {_normal(name): version for name, version in found}


def packages(pinned: Mapping[str, str], installed: Mapping[str, str], lock: str) -> Finding:
    """Pinned versions against installed ones; a local part such as '+cpu' does not count."""
    missing = [name for name in pinned if name not in installed]
    other = [
        f"{name} {installed[name]} instead of {version}"
        for name, version in pinned.items()
        if name in installed and installed[name].split("+")[0] != version.split("+")[0]
    ]
    if not missing and not other:
        return Finding("ok", "packages", f"all {len(pinned)} of {lock}")
    shown = [*other, *(f"{name} is missing" for name in missing)]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    setup = "make setup PROFILE=single_gpu" if lock == GPU_LOCK else "make setup"
    return Finding("wrong", "packages", f"{', '.join(shown[:3])}{more}: {setup} ({lock})")


def compiler(there: bool, headers: bool) -> Finding:
    lacking = [name for name, found in (("a C compiler", there), ("Python's headers", headers)) if not found]
    if not lacking:
        return Finding("ok", "compiler", "C compiler and Python's headers")
    return Finding("warning", "compiler", f"{' and '.join(lacking)} not found: the next set-up needs them, "
                   "e.g. apt-get install build-essential python3.11-dev")  # fmt: skip


def threads(used: int, cores: int) -> Finding:
    if used >= cores:
        return Finding("ok", "threads", f"torch uses {used} of {cores} cores")
    return Finding(
        "warning", "threads", f"torch uses {used} of {cores} cores: unset OMP_NUM_THREADS and MKL_NUM_THREADS"
    )


def products(flags: Collection[str]) -> Finding:
    """flags: of /proc/cpuinfo."""
    found = processor.kinds(flags)
    if processor.BFLOAT16 & set(flags):
        return Finding("ok", "processor", found[0])
    precision = "" if "avx512f" in flags else ", in float32"
    return Finding("warning", "processor", f"no bfloat16 instructions ({', '.join(found) or 'nor AVX2'}): training on "
                   f"this CPU takes several times as long as the README says{precision}")  # fmt: skip


def gpu(found: list[tuple[str, float]], cuda: str | None, usable: bool) -> Finding:
    """found: from nvidia-smi. cuda: the version that torch is built for. usable: whether torch sees a GPU."""
    if not found:
        return Finding(
            "warning", "GPU", "none found: profiles smoke, nano and cpu run, single_gpu and paper do not"
        )
    shown = "; ".join(f"{name}, {size / GB:.0f} GB" for name, size in found)
    if cuda is None:
        return Finding("wrong", "GPU", f"{shown}; torch is built for CPUs: make setup PROFILE=single_gpu")
    if not usable:
        return Finding(
            "wrong", "GPU", f"{shown}; torch (CUDA {cuda}) cannot use it: update the driver, see nvidia-smi"
        )
    return Finding("ok", "GPU", f"{shown}; torch is built for CUDA {cuda}")


def space(what: str, free: float, wanted: float, where: str, level: Literal["warning", "wrong"]) -> Finding:
    """Free disk or memory in bytes against the GB that the `cpu` profile wants."""
    shown = f"{free / GB:.1f} GB free{where}"
    if free >= wanted * GB:
        return Finding("ok", what, shown)
    return Finding(level, what, f"{shown}, the cpu profile wants {wanted} GB: free some")


def folder(what: str, path: Path, variable: str) -> Finding:
    there = next(each for each in (path, *path.parents) if each.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return Finding("ok", what, f"{path} can be written")
    return Finding(
        "wrong", what, f"{path} cannot be written: make it writable, or name another one in {variable}"
    )


def model_cache() -> Finding:
    """Whether every model that is kept has the bytes that it was stored with."""
    try:
        from dereason_utils import models
    except ImportError as error:
        return Finding("warning", "models", f"cannot be looked at ({first_line(error)})")
    root = paths.cache_root()
    kept = [each.name for each in sorted(root.glob("[!.]*")) if each.is_dir()]
    damaged = [name for name in kept if models.cached(name) is None]
    if damaged:
        return Finding("wrong", "models", f"{root / damaged[0]} is damaged: remove it, and it is made again")
    return Finding(
        "ok", "models", f"{len(kept)} in the cache, all whole" if kept else "none yet: made on first use"
    )


def hub(token: bool, fetch: Callable[[], object]) -> Finding:
    """fetch: raises OSError when the hub cannot be reached."""
    try:
        fetch()
    except OSError as error:
        return Finding(
            "warning",
            "hub",
            f"cannot be reached ({first_line(error)}): hub models and corpora need a local folder",
        )
    if not token:
        return Finding("warning", "hub", "reachable, no token: gated data (GPQA) needs HF_TOKEN")
    return Finding("ok", "hub", "reachable, a token is set")


def kernel(specs: Mapping[str, str], prefix: str) -> Finding:
    """specs: {name: folder} of Jupyter."""
    own = [name for name, where in specs.items() if Path(where).is_relative_to(prefix)]
    if own:
        return Finding("ok", "kernel", f"{', '.join(own)} of this environment")
    return Finding("wrong", "kernel", "no Jupyter kernel of this environment is registered: make setup")


def variables(environment: Mapping[str, str], cores: int) -> Finding:
    """Variables that have made a run fail or crawl."""
    odd = []
    for name, value in sorted(environment.items()):
        one_thread = name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") and value == "1" and cores > 1
        no_gpu = name == "CUDA_VISIBLE_DEVICES" and value in ("", "-1")
        if (
            value
            and name in ("PYTHONPATH", "PYTHONHOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
            or name.startswith("PAPERMILL")
            or one_thread
            or no_gpu
        ):
            odd.append(f"{name}={value}")
    if odd:
        return Finding("warning", "variables", f"{', '.join(odd)}: unset what you did not mean to set")
    return Finding("ok", "variables", "none that is in the way")


# ---- this machine ----


def found_gpus() -> list[tuple[str, float]]:
    """(name and driver, bytes) of every GPU that nvidia-smi lists; empty without one."""
    if shutil.which("nvidia-smi") is None:
        return []
    line = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    rows = [row.split(", ") for row in done.stdout.splitlines() if row.count(", ") == 2]
    return [(f"{name}, driver {driver}", float(mib) * 2**20) for name, driver, mib in rows]


def driver_cuda() -> str | None:
    """The newest CUDA that the driver runs, e.g. '13.0', by the head of nvidia-smi's page; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    found = re.search(r"CUDA[A-Za-z ]* Version\s*:\s*(\d+\.\d+)", done.stdout)
    return found[1] if found else None


def findings(lock: str) -> Iterator[Finding]:
    """All of them, cheap ones first. lock: what this environment was, or should have been, made from."""
    yield python(sys.version_info[:3])
    installed = {_normal(d.name): d.version for d in importlib.metadata.distributions()}
    yield packages(pins((paths.REPO / lock).read_text(encoding="utf-8")), installed, lock)
    header = Path(sysconfig.get_path("include")) / "Python.h"
    yield compiler(shutil.which("cc") is not None, header.exists())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield products(processor.info()[1])
    yield from _of_torch(cores)
    yield space("memory", available_memory(), MEMORY_GB, "", "warning")
    results = paths.results_root()
    there = next(each for each in (results, *results.parents) if each.exists())
    yield space("disk", shutil.disk_usage(there).free, DISK_GB, f" at {there}", "wrong")
    yield folder("results", results, "DEREASON_RESULTS")
    yield folder("cache", paths.cache_root(), "DEREASON_CACHE")
    yield model_cache()
    yield _kernel()
    address = os.environ.get("HF_ENDPOINT", HUB)
    yield hub(_token(), lambda: urllib.request.urlopen(address, timeout=4).close())
    yield variables(os.environ, cores)


def available_memory() -> float:
    """Bytes that a new process can have without swapping; 0 where the system does not say."""
    info = Path("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", info.read_text(), re.MULTILINE) if info.exists() else None
    return float(found[1]) * 1024 if found else 0.0


def _of_torch(cores: int) -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("wrong", "torch", f"cannot be imported ({first_line(error)}): make setup")
        return
    yield threads(torch.get_num_threads(), cores)
    yield gpu(found_gpus(), torch.version.cuda, torch.cuda.is_available())


def _kernel() -> Finding:
    try:
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError as error:
        return Finding("wrong", "kernel", f"Jupyter cannot be imported ({first_line(error)}): make setup")
    return kernel(KernelSpecManager().find_kernel_specs(), sys.prefix)


def _token() -> bool:
    try:
        from huggingface_hub import get_token
    except ImportError:  # `packages` says so
        return False
    return get_token() is not None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m dereason_utils.doctor", description="What is wrong here.")
    parser.add_argument(
        "--lock", choices=(CPU_LOCK, GPU_LOCK), help="of this environment (default: by what is in it)"
    )
    options = parser.parse_args(arguments)
    print(f"dereason on {platform.platform()}")
    found = []
    for finding in findings(options.lock or (GPU_LOCK if _version("vllm") else CPU_LOCK)):
        found.append(finding)
        print(f"{finding.level:<8} {finding.what:<10} {finding.said}", flush=True)
    wrong = sum(finding.level == "wrong" for finding in found)
    warnings = sum(finding.level == "warning" for finding in found)
    print(f"{wrong} wrong, {warnings} warnings." if wrong or warnings else "Nothing is wrong.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
