"""The runner, on tiny notebooks: one for each way in which a step can fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from dereason_utils import manifest, paths, run, workflow
from dereason_utils.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures"
STEP = ["02_split", "--profile", "smoke", "--seed", "0"]
EXECUTED = "smoke/02_split_seed0.ipynb"
FAILED = "smoke/02_split_seed0.failed.ipynb"
pytestmark = pytest.mark.usefixtures("roots")


def use(roots, fixture):
    shutil.copy(FIXTURES / "notebooks" / f"{fixture}.ipynb", roots / "notebooks" / "02_split.ipynb")


def left_over(roots):
    """Unfinished files, which no run may leave."""
    return [path for path in roots.rglob("*") if path.name.startswith(".tmp-")]


def test_a_good_step(roots, capfd):
    use(roots, "good")
    assert run.main([*STEP, "-o", "teacher.slip=0.5"]) == 0
    out = capfd.readouterr().out
    assert "=== 02_split seed 0  |  profile smoke  |  0 of " in out
    assert "hello from seed 0" in out
    assert "02_split seed 0 done in" in out
    made = manifest.require("smoke", "02_split", seed=0)
    assert made.parameters["teacher"] == {"via": "reference", "slip": 0.5}
    executed = nbformat.read(roots / "runs" / EXECUTED, as_version=4)
    counts = [cell.execution_count for cell in executed.cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3, 4, 5]
    text = (roots / "runs" / EXECUTED).read_text()
    assert str(paths.REPO) + "/" not in text
    assert sys.prefix + "/" not in text
    assert executed.metadata.papermill.output_path == EXECUTED
    assert left_over(roots) == []


@pytest.mark.fault
@pytest.mark.parametrize(
    ("fixture", "sentence"),
    [
        ("input_error", "Error in 02_split seed 0: The corpus has no problems: make it again."),
        ("other_error", "Error in 02_split seed 0: IndexError in cell [4]: list index out of range"),
        ("system_exit", "Error in 02_split seed 0: The notebook ended without writing its manifest"),
        ("no_manifest", "Error in 02_split seed 0: The notebook ended without writing its manifest"),
        ("killed_kernel", "Error in 02_split seed 0: The kernel was killed, most often for lack of memory"),
    ],
)
def test_a_failed_step_says_why_and_does_not_count_as_done(roots, capfd, fixture, sentence):
    use(roots, "good")
    earlier = roots / "runs" / EXECUTED
    earlier.parent.mkdir(parents=True)
    earlier.write_text("an earlier, good run")
    use(roots, fixture)
    assert run.main(STEP) == 1
    captured = capfd.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.out + captured.err
    with pytest.raises(InputError, match="has not been run yet"):
        manifest.require("smoke", "02_split", seed=0)
    failed = nbformat.read(roots / "runs" / FAILED, as_version=4)
    assert failed.cells[0].source.startswith("**This run failed.**")
    assert earlier.read_text() == "an earlier, good run"
    assert left_over(roots) == []


@pytest.mark.fault
def test_a_manifest_of_an_earlier_run_proves_nothing(roots, capfd):
    use(roots, "good")
    path = roots / "notebooks" / "02_split.ipynb"
    assert run.main(STEP) == 0
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = notebook.cells[:2]  # only the parameters: never begins, so the old manifest stays
    nbformat.write(notebook, path)
    assert run.main(STEP) == 1
    assert "ended without writing its manifest" in capfd.readouterr().err


@pytest.mark.fault
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["02_split", "--profile", "nonsense", "--seed", "0"], "Unknown profile 'nonsense'"),
        (["02_split", "--profile", "../cpu", "--seed", "0"], "Unknown profile '../cpu'"),
        (["02_splat", "--profile", "smoke", "--seed", "0"], "Unknown stage '02_splat'"),
        (["02_split", "--profile", "smoke"], "02_split needs a seed"),
        (["02_split", "--profile", "smoke", "--seed", "x"], "A seed is a whole number"),
        (["02_split", "--profile", "smoke", "--seed", "12345"], "Unknown seed 12345"),
        (["02_split", "--profile", "smoke", "--seed", "0", "--arm", "dereason"], "02_split needs no arm"),
        (["03_sft", "--profile", "smoke", "--seed", "0"], "03_sft needs an arm"),
        (["03_sft", "--profile", "smoke", "--seed", "0", "--arm", "unheard"], "Unknown arm 'unheard'"),
        (["03_sft", "--profile", "smoke", "--seed", "0", "--arm", "rl_only"], "has no 03_sft step"),
        (["04_grpo", "--profile", "smoke", "--seed", "0", "--arm", "base"], "has no 04_grpo step"),
        ([*STEP, "-o", "grpo.steps"], "not of the form name=value"),
        ([*STEP, "-o", "grpo.steps=[1"], "cannot be read"),
        ([*STEP, "-o", "grpo.stepps=3"], "Unknown setting 'grpo.stepps'"),
        ([*STEP, "-o", "grpo.steps=-3"], "grpo.steps"),
        ([*STEP, "-o", "grpo.steps=many"], "grpo.steps"),
    ],
)
def test_bad_words_are_refused_before_a_kernel_starts(roots, capsys, monkeypatch, arguments, sentence):
    use(roots, "good")
    monkeypatch.setattr(run, "execute", lambda *_: pytest.fail("a kernel was started"))
    assert run.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert not (roots / "results").exists()
    assert not (roots / "runs").exists()


def test_so_far_is_for_figures_alone(roots, capsys):
    line = ["03_sft", "--profile", "smoke", "--arm", "dereason", "--seed", "0", "--so-far"]
    assert run.main(line) == 2 and "--so-far is for 06_figures" in capsys.readouterr().err


@pytest.mark.fault
@pytest.mark.parametrize(
    ("fixture", "declared"),
    [("mistyped_parameter", "profile: str, sede: int"), ("wrong_type", "profile: str, seed: str")],
)
def test_the_parameters_cell_is_checked_before_a_kernel_starts(roots, capsys, monkeypatch, fixture, declared):
    use(roots, fixture)
    monkeypatch.setattr(run, "execute", lambda *_: pytest.fail("a kernel was started"))
    assert run.main(STEP) == 2
    assert f"declares overrides: dict, {declared}" in capsys.readouterr().err


@pytest.mark.fault
def test_a_missing_notebook(roots, capsys):
    assert run.main(STEP) == 2
    assert "02_split.ipynb is missing" in capsys.readouterr().err


@pytest.mark.fault
def test_a_folder_in_use_is_left_alone(roots, capfd, monkeypatch):
    use(roots, "good")
    held = paths.step_dir("smoke", "02_split", seed=0)
    held.mkdir(parents=True)
    manifest.hold(held)
    try:
        assert run.main(STEP) == 1
    finally:
        manifest.release(held)
    assert "Another run is writing to" in capfd.readouterr().err


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_at_once_with_all_its_processes(roots, number):
    use(roots, "sleeps")
    child, _ = _start_sleeping(roots, runner := _runner())
    begun = time.monotonic()
    runner.send_signal(number)
    _, err = runner.communicate(timeout=30)
    assert time.monotonic() - begun < 10
    assert runner.returncode == 130
    assert err == "02_split seed 0 stopped. Give the same command again to go on from the last checkpoint.\n"
    assert not _runs(child)
    assert left_over(roots / "runs") == []
    assert not paths.manifest_path("smoke", "02_split", seed=0).exists()
    use(roots, "good")
    assert run.main(STEP) == 0


@pytest.mark.fault
def test_a_killed_runner_takes_its_kernel_along(roots):
    use(roots, "sleeps")
    child, kernel = _start_sleeping(roots, runner := _runner(subprocess.DEVNULL))
    runner.kill()
    runner.wait()
    use(roots, "good")
    assert run.main(STEP) == 0  # waits until the orphaned kernel has noticed
    assert not _runs(kernel)
    os.kill(child, signal.SIGKILL)


@pytest.mark.fault
def test_a_step_stops_with_its_workflow_engine(roots):
    use(roots, "sleeps")
    line = [sys.executable, "-m", "dereason_utils.run", "--with-parent", *STEP]
    engine = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({line})"], cwd=paths.REPO
    )
    child, kernel = _start_sleeping(roots, engine)
    engine.kill()
    engine.wait()
    deadline = time.monotonic() + 10
    while (_runs(child) or _runs(kernel)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _runs(child)
    assert not _runs(kernel)


def _runner(output=subprocess.PIPE):
    line = [sys.executable, "-m", "dereason_utils.run", *STEP]
    return subprocess.Popen(line, cwd=paths.REPO, stdout=output, stderr=output, text=True)


def _start_sleeping(roots, runner):
    """Wait until the notebook works; return the ids of the process that it started and of its kernel."""
    note = paths.step_dir("smoke", "02_split", seed=0) / "child"
    deadline = time.monotonic() + 60
    while not note.exists() and runner.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    child = int(note.read_text())
    return child, psutil.Process(child).ppid()


def _runs(process):
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def test_the_kernel_is_this_python_whatever_the_kernelspec_says(roots, monkeypatch):
    spec = roots / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps(
            {"argv": ["/nowhere/python", "{connection_file}"], "display_name": "x", "language": "python"}
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(roots / "jupyter"))
    use(roots, "good")
    assert run.main(STEP) == 0


def test_overrides_are_yaml():
    words = [
        "grpo.steps=3",
        "seeds=[0, 1]",
        "model.revision=null",
        "grpo.learning_rate=6.0e-5",
        "judge.split_by=llm",
    ]
    assert run.parse_overrides(words) == {
        "grpo.steps": 3,
        "seeds": [0, 1],
        "model.revision": None,
        "grpo.learning_rate": 6e-5,
        "judge.split_by": "llm",
    }


def test_the_header_tells_how_long_is_left(roots):
    from dereason_utils import profiles

    profile = profiles.load("smoke", {"arms": ["base", "sft_only"]})
    now = workflow.StepKey("01_score")
    assert "left" not in run.header(profile, now)
    for key in workflow.steps(profile):
        path = paths.run_notebook_path("smoke", *key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"metadata": {"papermill": {"duration": 60.0}}}))
    assert run.header(profile, now).endswith("0 of 6 steps done  |  about 3m left, going by earlier runs")
