"""Run one step: a notebook for one profile, arm and seed, through papermill.

    python -m dereason_utils.run 03_sft --profile smoke --arm dereason --seed 0 -o sft.epochs=2

Everything that can be checked is checked before a kernel starts. A step has succeeded only if its last cell
wrote the manifest during this run: papermill also calls a notebook complete whose kernel was killed.
No cell has a time limit, because a stage may take days: a kernel that hangs is ended by Ctrl-C.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import nbformat
import papermill
import yaml
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbclient.util import run_sync

from dereason_utils import disk, manifest, paths, profiles, progress, workflow
from dereason_utils.errors import InputError

# Of the kernel; a variable that the user has set stays as it is.
ENVIRONMENT = {
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # silences a debugger warning in every notebook
    # GRPO on a GPU: log-probabilities before the update and in it come from one function, which keeps no logits but makes
    # them again, a part at a time and without a compiled graph of all parts (LOG.md). On a CPU it changes no byte.
    "UNSLOTH_GRPO_LOGPROB_RECOMPUTE": "1",
}
UNPROVEN = (
    "The notebook ended without writing its manifest, so the step does not count as done: "
    "a cell stopped it early, or its last cell does not call manifest.finish."
)
START_TIMEOUT = 180  # seconds until a kernel must answer; a busy machine needs some
IOPUB_TIMEOUT = 120  # seconds that a cell's late output may take: a chatty cell is no error


class StepFailed(Exception):
    """The notebook ran and did not finish. The message is for the terminal."""


class Kernel(AsyncKernelManager):
    """A kernel on this very interpreter, whatever a kernelspec 'python3' of this machine stands for."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")

    def kill(self) -> None:
        """Kill the kernel and the processes that it started (it leads their group), if it runs."""
        if self.has_kernel:
            with suppress(ProcessLookupError):  # all of them are dead already
                os.killpg(self.provisioner.pid, signal.SIGKILL)


def run_step(profile_name: str, key: workflow.StepKey, overrides: dict[str, object]) -> None:
    """Check, run, keep the executed notebook. Raises InputError before the start or StepFailed after it."""
    profile = profiles.load(profile_name, overrides)
    workflow.check(profile, key)
    parameters = {"profile": profile_name, "overrides": overrides}
    parameters |= {name: value for name, value in (("arm", key.arm), ("seed", key.seed)) if value is not None}
    notebook = paths.notebook_path(key.stage)
    check_parameters_cell(notebook, parameters)

    target = paths.run_notebook_path(profile_name, *key)
    failed = target.with_suffix(".failed.ipynb")
    working = target.with_name(f"{disk.TEMPORARY}{os.getpid()}-{target.name}")
    proof = paths.manifest_path(profile_name, *key)
    before = _identity(proof)

    print(header(profile, key), flush=True)
    begun = time.monotonic()
    with disk.errors(target), _removed_in_the_end(working):
        target.parent.mkdir(parents=True, exist_ok=True)
        label = manifest.label(*key) if profile.steps_at_once > 1 else ""
        reason = execute(notebook, working, parameters, label)
        if reason is None and _identity(proof) in (None, before):
            reason = UNPROVEN
        if reason and working.exists():
            keep(working, failed, notebook, reason)
            reason += f"\nThe notebook up to there: {_shown(failed)}"
        if reason:
            raise StepFailed(reason)
        keep(working, target, notebook)
        failed.unlink(missing_ok=True)
    peak = manifest.load(proof).peak_memory_mb / 1000
    took = progress.duration(time.monotonic() - begun)
    print(f"{manifest.label(*key)} done in {took}, peak memory {peak:.1f} GB", flush=True)


def check_parameters_cell(notebook: Path, parameters: dict[str, object]) -> None:
    """Raise InputError unless the parameters cell declares exactly these names, with these types."""
    if not notebook.exists():
        raise InputError(f"{notebook} is missing: restore it with `git checkout notebooks`.")
    declared = {
        name: facts["inferred_type_name"] for name, facts in papermill.inspect_notebook(notebook).items()
    }
    wanted = {name: type(value).__name__ for name, value in parameters.items()}
    if declared != wanted:
        raise InputError(
            f"The parameters cell of {notebook} must declare {_signature(wanted)} and declares "
            f"{_signature(declared) or 'nothing'}: correct the cell tagged 'parameters'."
        )


class Labelled:
    """Writes text with a label before each line, so that one can tell the lines of steps that run at once."""

    def __init__(self, stream: TextIO, label: str):
        self.stream, self.label, self.is_within = stream, label, False

    def write(self, text: str) -> None:
        for line in text.splitlines(keepends=True):
            self.stream.write(line if self.is_within else f"{self.label}  {line}")
            self.is_within = not line.endswith("\n")

    def flush(self) -> None:
        self.stream.flush()


def execute(notebook: Path, output: Path, parameters: dict[str, object], label: str = "") -> str | None:
    """Run the notebook and save it to `output`, showing its text output. Returns why it failed, or None.

    Nothing of the kernel is left behind, also after Ctrl-C or SIGTERM, which raise KeyboardInterrupt here.
    """
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    with tempfile.TemporaryDirectory(prefix="dereason-") as sockets:  # no TCP: nobody else can listen
        kernel = Kernel(transport="ipc", connection_file=f"{sockets}/kernel.json")
        try:
            with _interruptible(kernel):
                papermill.execute_notebook(
                    notebook,
                    output,
                    parameters,
                    km=kernel,
                    cwd=paths.REPO,
                    progress_bar=False,  # tqdm's widgets freeze in saved notebooks; ours are plain lines
                    stdout_file=Labelled(sys.stdout, label) if label else sys.stdout,
                    stderr_file=Labelled(sys.stderr, label) if label else sys.stderr,
                    start_timeout=START_TIMEOUT,
                    iopub_timeout=IOPUB_TIMEOUT,
                )
        except papermill.PapermillExecutionError as error:
            if error.ename == InputError.__name__:
                return error.evalue
            return f"{error.ename} in cell [{error.exec_count}]: {error.evalue}"
        except (DeadKernelError, TimeoutError, RuntimeError) as error:
            return (
                f"{_cause_of_death(kernel)} ({error}); what was saved is kept, give the same command again."
            )
        finally:
            kernel.kill()
            if kernel.has_kernel:
                run_sync(kernel.shutdown_kernel)(now=True)
    return None


def keep(working: Path, target: Path, notebook: Path, failure: str | None = None) -> None:
    """Name the executed notebook, without this machine's paths; a failed one says so in its first cell."""
    node = nbformat.read(working, as_version=4)
    record = node.metadata.papermill
    record.input_path, record.output_path = (f"{path.parent.name}/{path.name}" for path in (notebook, target))
    if failure:
        node.cells.insert(0, nbformat.v4.new_markdown_cell(f"**This run failed.** {failure}", id="failure"))
    text = nbformat.writes(node)
    for path, shown in ((sys.prefix, "<environment>"), (str(paths.REPO), "."), (str(Path.home()), "~")):
        text = text.replace(f"{path}/", f"{shown}/")
    disk.write_text(target, text + "\n")


def header(profile: profiles.Profile, key: workflow.StepKey) -> str:
    """Which step of how many this is, and how long all that is left took earlier."""
    steps, done = workflow.steps(profile), workflow.done(profile) - {key}
    parts = [
        f"=== {manifest.label(*key)}",
        f"profile {profile.name}",
        f"{len(done)} of {len(steps)} steps done",
    ]
    if seconds := workflow.seconds_left(profile, key):
        parts.append(f"about {progress.duration(seconds)} left, going by earlier runs")
    return "  |  ".join(parts)


def parse_overrides(words: list[str]) -> dict[str, object]:
    """['grpo.steps=3', 'seeds=[0, 1]'] -> {'grpo.steps': 3, 'seeds': [0, 1]}; values are YAML."""
    overrides = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InputError(f"Override {word!r} is not of the form name=value, e.g. -o grpo.steps=3.")
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"Override {name!r} has a value that cannot be read: {value!r}.") from None
    return overrides


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m dereason_utils.run", description="Run one step of the study.")
    parser.add_argument("stage", help=", ".join(paths.STAGES))
    parser.add_argument("--profile", required=True, help=", ".join(profiles.names()))
    parser.add_argument("--arm", help="for " + ", ".join(paths.ARMED))
    parser.add_argument("--seed", help="for " + ", ".join(paths.SEEDED))
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="NAME=VALUE", help="e.g. grpo.steps=3"
    )
    parser.add_argument(
        "--so-far", action="store_true", help="06_figures: of the profile's seeds those that were run"
    )
    parser.add_argument(
        "--with-parent", action="store_true", help="stop when the process that started this one is gone"
    )
    options = parser.parse_args(arguments)
    if options.with_parent:
        threading.Thread(target=_stop_with, args=(os.getppid(),), daemon=True).start()
    try:
        if options.seed is not None and not options.seed.isdecimal():
            raise InputError(f"A seed is a whole number from 0 on (got {options.seed!r}).")
        key = workflow.StepKey(
            options.stage, options.arm, None if options.seed is None else int(options.seed)
        )
        overrides = parse_overrides(options.override)
        if options.so_far:
            overrides |= _seeds_so_far(options.profile, key, overrides)
        run_step(options.profile, key, overrides)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except StepFailed as error:
        print(f"Error in {manifest.label(*key)}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        stopped = manifest.label(options.stage, options.arm, options.seed)
        print(
            f"{stopped} stopped. Give the same command again to go on from the last checkpoint.",
            file=sys.stderr,
        )
        return 130
    return 0


def _seeds_so_far(
    profile_name: str, key: workflow.StepKey, overrides: dict[str, object]
) -> dict[str, object]:
    """The overrides under which 06_figures draws the seeds and arms that were run; says so where they are not all."""
    if key.stage != "06_figures":
        raise InputError("--so-far is for 06_figures: the other steps have one seed each.")
    profile = profiles.load(profile_name, overrides)
    found = workflow.so_far(profile)
    if found:
        part = profile.model_copy(update=found)
        print(f"Profile {profile_name}: {workflow.told(profile, part)}")
    return found


@contextmanager
def _interruptible(kernel: Kernel):
    """Ctrl-C and SIGTERM kill the kernel at once: results are whole files, so that only time is lost."""

    def stop(number, frame):
        logging.disable()  # nbclient and asyncio would only report that the kernel is dead
        kernel.kill()
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _removed_in_the_end(path: Path):
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _stop_with(parent: int) -> None:
    """A killed workflow engine must not leave a step running, or the same command again would be refused."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def _cause_of_death(kernel: Kernel) -> str:
    status = kernel.provisioner.process.poll() if kernel.has_kernel else None
    if status is None:
        return "The kernel does not answer"
    if status == -signal.SIGKILL:
        return "The kernel was killed, most often for lack of memory"
    return f"The kernel died with exit status {status}"


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells a file that was written again from the one before; None when it is not there."""
    if not path.exists():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _signature(types: dict[str, str]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in sorted(types.items()))


if __name__ == "__main__":
    sys.exit(main())
