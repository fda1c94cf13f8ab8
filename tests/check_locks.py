"""`make test-locks`: requirements-gpu.lock can be installed on three releases of Python, and is consistent.

For each of them pip finds every pin (nothing is installed, and pip reads a package's metadata instead of the package
where its index offers that), and every requirement of every package is met by a pin. Packages that exist as source
alone are left out, and named: only a real installation builds them.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

PYTHONS = ("3.11", "3.12", "3.13")
LOCK = Path(__file__).parents[1] / "requirements-gpu.lock"
SOURCE_ONLY = ("antlr4-python3-runtime", "cellpylib", "connection-pool", "pycosat", "zss")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 36)] + [
    "manylinux2014_x86_64",
    "linux_x86_64",
]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in LOCK.read_text().splitlines()]
    return {normal(line.split("==")[0]): line.split("==")[1] for line in lines if line}


def metadata(python: str, folder: Path) -> list[dict]:
    """The metadata of what pip would install. Exits with pip's words when a pin cannot be found."""
    wanted = folder / "wheels.lock"
    known = {name: version for name, version in pins().items() if name not in SOURCE_ONLY}
    wanted.write_text("\n".join(f"{name}=={version}" for name, version in known.items()))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--quiet",
    ]
    command += ["--only-binary=:all:", "--python-version", python, "--target", str(folder / "target")]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    report = folder / "report.json"
    done = subprocess.run(
        [*command, "--report", str(report), "-r", str(wanted)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        sys.exit("\n".join([f"Python {python}: pip does not find what {LOCK.name} pins.", *errors]))
    return [entry["metadata"] for entry in json.loads(report.read_text())["install"]]


def unmet(packages: list[dict], python: str) -> list[str]:
    """Requirements of the packages (those without an extra) that the pins do not meet."""
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.0",
        "extra": "",
    }
    found, known = [], pins()
    for package in packages:
        for text in package.get("requires_dist", []):
            need = Requirement(text)
            if need.marker and not need.marker.evaluate(environment):
                continue
            have = known.get(normal(need.name))
            if have is None or not need.specifier.contains(have, prereleases=True):
                found.append(
                    f"{package['name']} needs {need}, and {LOCK.name} has {have or 'no such package'}"
                )
    return found


def main() -> None:
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            packages = metadata(python, Path(folder))
        if wrong := unmet(packages, python):
            sys.exit("\n".join([f"Python {python}:", *wrong]))
        print(
            f"Python {python}: {len(packages)} wheels as pinned, all requirements met; {', '.join(SOURCE_ONLY)}: source"
        )


if __name__ == "__main__":
    main()
