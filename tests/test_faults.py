"""Damaged files, wrong rows, full and read-only disks, kernels that die: each is one sentence that says what to do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import small_policy
import torch
from safetensors.torch import save_file

from dereason_utils import disk, manifest, models, paths, run, schema, training
from dereason_utils.errors import InputError

pytestmark = [pytest.mark.fault, pytest.mark.usefixtures("roots")]
FIXTURES = Path(__file__).parent / "fixtures" / "notebooks"
STEP = ["02_split", "--profile", "smoke", "--seed", "0"]
MAKE = "make it again with `python -m dereason_utils.run 02_split --profile smoke --seed 0`."
COLUMNS = ["id", "question", "answer"]
GOOD = pd.DataFrame({"id": ["a", "b", "c"], "question": ["1+1?", "2+2?", "3+3?"], "answer": ["2", "4", "6"]})


def one_sentence(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


# ---- rows ----


def changed(**cells):
    rows = GOOD.copy()
    for column, values in cells.items():
        rows[column] = values
    return rows


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (GOOD.drop(columns="answer"), "lacks the column 'answer' (it has id, question)"),
        (
            GOOD.rename(columns={"question": "prompt"}),
            "lacks the column 'question' (it has id, prompt, answer)",
        ),
        (pd.DataFrame(), "lacks the column 'id' (it has none)"),
        (GOOD.head(0), "has no rows"),
        (changed(id=["a", "b", "a"]), "the id 'a' stands in rows 1 and 3"),
        (changed(question=["1+1?", "", "3+3?"]), "row 2: question is empty"),
        (changed(question=["1+1?", "2+2?", " \n"]), "row 3: question is empty"),
        (changed(answer=["2", None, "6"]), "row 2: answer is empty"),
        (changed(answer=[2, 4, 6]), "row 1: answer is empty"),
        (changed(id=["a", "", "c"]), "row 2: id is empty"),
    ],
)
def test_wrong_rows_are_named(rows, says):
    step = make_step(rows)
    with pytest.raises(InputError) as caught:
        schema.read(step, "rows.parquet", COLUMNS)
    message = one_sentence(caught)
    assert (
        message.startswith(str(step.folder / "rows.parquet")) and says in message and message.endswith(MAKE)
    )


def test_good_rows_come_back_with_their_extra_columns():
    rows = changed(score=[1, 2, 3])
    pd.testing.assert_frame_equal(schema.read(make_step(rows), "rows.parquet", COLUMNS), rows)


def make_step(rows):
    step = manifest.begin("02_split", "smoke", seed=0, parameters={})
    disk.write_table(step.folder / "rows.parquet", rows)
    return manifest.finish(step, outputs=["rows.parquet"])


# ---- damaged files ----

DAMAGE = {
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut at the end": lambda data: data[:-1],
    "emptied": lambda data: b"",
    "overwritten": lambda data: b"\x00" * len(data),
    "another file": lambda data: b"id,question,answer\n",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_named_with_the_command_that_makes_it_again(damage):
    step = make_step(GOOD)
    path = step.folder / "rows.parquet"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(InputError) as caught:  # what a later step asks first
        manifest.require("smoke", "02_split", seed=0)
    assert "python -m dereason_utils.run 02_split --profile smoke --seed 0" in one_sentence(caught)
    with pytest.raises(InputError) as caught:  # and if that had not noticed
        schema.read(step, "rows.parquet", COLUMNS)
    message = one_sentence(caught)
    assert message.startswith(f"{path} cannot be read") and message.endswith(MAKE)


@pytest.mark.parametrize("damage", [*DAMAGE])
def test_damaged_weights_are_refused(damage, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(50)}, path)
    models.check_weights(tmp_path)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(InputError) as caught:
        models.check_weights(tmp_path)
    assert one_sentence(caught).startswith(f"{path} is damaged")


@pytest.mark.parametrize("damage", [*DAMAGE])
def test_a_damaged_model_in_the_cache_is_made_again(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_CACHE", str(tmp_path))
    folder = models.keep("thing", lambda folder: (folder / "weights").write_bytes(b"weights" * 9), {})
    assert models.cached("thing") == folder
    for name in ("weights", models._READY):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(DAMAGE[damage](data))
        assert models.cached("thing") is None
        (folder / name).write_bytes(data)


def test_a_checkpoint_that_was_cut_is_passed_over(tmp_path):
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(b"state" * step)
        state = type("State", (), {"global_step": step, "is_world_process_zero": True})
        training.mark_whole().on_save(type("Args", (), {"output_dir": tmp_path}), state, None)
    assert training.last_whole_checkpoint(tmp_path).endswith("checkpoint-2")
    (tmp_path / "checkpoint-2" / "optimizer.pt").write_bytes(b"st")
    assert training.last_whole_checkpoint(tmp_path).endswith("checkpoint-1")
    (tmp_path / "checkpoint-1" / "optimizer.pt").unlink()
    assert training.last_whole_checkpoint(tmp_path) is None


# ---- disks ----


def mounted(folder, options):
    """Mount a small file system in memory on the folder, or skip the test."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    folder = mounted(tmp_path / "disk", "size=128k")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


WRITERS = {
    "table.csv": lambda path: disk.write_table(path, pd.DataFrame({"x": range(200_000)})),
    "table.parquet": lambda path: disk.write_table(path, pd.DataFrame({"x": torch.rand(200_000).numpy()})),
    "text.txt": lambda path: disk.write_text(path, "x" * 10**6),
    "weights.safetensors": lambda path: _write_folder(
        path, lambda to: save_file({"w": torch.ones(10**6)}, to)
    ),
    "optimizer.pt": lambda path: _write_folder(path, lambda to: torch.save(torch.ones(10**6), to)),
}


def _write_folder(path, write):
    with disk.atomic_folder(path.parent / "policy") as working:
        write(working / path.name)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(small_disk, name):
    disk.write_text(small_disk / name, "old")
    with pytest.raises(InputError) as caught:
        WRITERS[name](small_disk / name)
    assert one_sentence(caught).startswith(f"No space left on the disk of {small_disk}")
    assert (small_disk / name).read_text() == "old"
    assert [path.name for path in small_disk.iterdir()] == [name]


def test_training_on_a_full_disk_is_one_sentence(small_disk, tmp_path):
    from dereason_utils import profiles, sft

    settings = small_policy.settings(small_policy.build(tmp_path / "model"))
    model, tokenizer = models.load_policy(settings.name, settings, 0, train=True)
    rows = pd.DataFrame({"question": ["How many?"] * 16, "response": ["7"] * 16})
    examples, _ = sft.tokenise(rows, tokenizer, settings)
    with pytest.raises(InputError, match="No space left on the disk of"):
        sft.train(model, tokenizer, examples, [], profiles.load("smoke").sft, small_disk / "checkpoints", 0)
    assert training.last_whole_checkpoint(small_disk / "checkpoints") is None


def test_a_read_only_disk_is_one_sentence(tmp_path, monkeypatch):
    folder = mounted(tmp_path / "disk", "size=128k,ro")
    monkeypatch.setenv("DEREASON_RESULTS", str(folder))
    try:
        with pytest.raises(InputError) as caught:
            manifest.begin("02_split", "smoke", seed=0, parameters={})
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert "cannot be written (Read-only file system)" in one_sentence(caught)


# ---- kernels ----


def use(roots, source):
    """The good notebook with another third cell of code."""
    notebook = nbformat.read(FIXTURES / "good.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells[2].source = source
    nbformat.write(notebook, roots / "notebooks" / "02_split.ipynb")


def test_a_cell_that_asks_for_too_much_memory(roots, capfd):
    limit = "resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))"
    use(roots, f"import resource\n\n{limit}\nhuge = bytearray(8 * 2**30)")
    assert run.main(STEP) == 1
    error = capfd.readouterr().err
    assert "Error in 02_split seed 0: MemoryError in cell [" in error and "Traceback" not in error


HANG = """
import os, signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
disk.write_text(step.folder / "kernel", str(os.getpid()))
while True:
    sum(range(10**8))
"""


def test_a_kernel_that_hangs_and_heeds_no_signal_is_stopped_at_once(roots):
    use(roots, HANG)
    note = paths.step_dir("smoke", "02_split", seed=0) / "kernel"
    line = [sys.executable, "-m", "dereason_utils.run", *STEP]
    runner = subprocess.Popen(line, cwd=paths.REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not note.exists() and runner.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    runner.send_signal(signal.SIGINT)
    _, error = runner.communicate(timeout=60)
    assert runner.returncode == 130
    assert error.startswith(b"02_split seed 0 stopped. Give the same command again")
    kernel = int(note.read_text())
    assert not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE
    assert not paths.manifest_path("smoke", "02_split", seed=0).exists()
