import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from dereason_utils import disk, manifest, paths, processor
from dereason_utils.errors import InputError

KEY = ("02_split", None, 0)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("DEREASON_NOTEBOOKS", str(Path(__file__).parent / "fixtures" / "workflow"))
    monkeypatch.setattr(manifest, "LOCK_PATIENCE", 0.5)
    return tmp_path / "results"


def begin(**changes):
    return manifest.begin("02_split", "cpu", seed=0, **({"parameters": {"threshold": 3}} | changes))


def make_step():
    step = begin()
    disk.write_text(step.folder / "a.txt", "a\n")
    disk.write_text(step.folder / "merged" / "weights", "12345")
    return manifest.finish(step, outputs=["a.txt", "merged"])


# ---- files ----


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    disk.write_text(path, "old")
    with pytest.raises(KeyError), disk.atomic_path(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "adapter"
    for text in ("old", "new"):
        with disk.atomic_folder(folder) as working:
            (working / "deep").mkdir()
            (working / "deep" / "weights").write_text(text)
    with pytest.raises(KeyError), disk.atomic_folder(folder) as working:
        (working / "weights").write_text("half")
        raise KeyError
    assert (folder / "deep" / "weights").read_text() == "new"
    assert os.listdir(tmp_path) == ["adapter"]


@pytest.mark.fault
def test_a_full_disk_is_told_in_one_sentence(tmp_path):
    path = tmp_path / "a.txt"
    disk.write_text(path, "old")
    words, full = "No space left on the disk", Path("/dev/full")  # a device on which every write fails
    with (
        pytest.raises(InputError, match=words),
        disk.atomic_path(path),
        full.open("wb", buffering=0) as file,
    ):
        file.write(b"x")
    assert path.read_text() == "old"


@pytest.mark.fault
def test_a_read_only_place_is_told_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be written"), disk.errors(tmp_path / "x"):
        raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_come_back_and_have_the_same_bytes_twice(tmp_path, suffix):
    frame = pd.DataFrame({"name": ["a", None], "value": [0.1, 1e-9], "count": pd.array([1, None], "Int64")})
    paths_ = [tmp_path / f"{n}{suffix}" for n in (1, 2)]
    for path in paths_:
        disk.write_table(path, frame)
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    back = read(paths_[0])
    assert back["value"].tolist() == frame["value"].tolist()
    assert paths_[0].read_bytes() == paths_[1].read_bytes()
    with pytest.raises(ValueError, match="xlsx"):
        disk.write_table(tmp_path / "a.xlsx", frame)


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert disk.sha256_file(tmp_path / "a") == expected


# ---- steps ----


def test_a_manifest_says_what_was_made(results):
    corpus = results / "cpu" / "01_score" / "problems.parquet"
    disk.write_text(corpus, "abc")
    step = begin()
    time.sleep(0.2)
    disk.write_text(step.folder / "a.txt", "a\n")
    manifest.finish(step, inputs=[corpus], outputs=["a.txt"])
    made = json.loads((results / "cpu" / "02_split" / "seed0" / "manifest.json").read_text())
    assert made["inputs"] == {"results/cpu/01_score/problems.parquet": disk.sha256_file(corpus)}
    assert made["outputs"]["a.txt"] == {"sha256": disk.sha256_file(step.folder / "a.txt"), "bytes": 2}
    assert made["parameters"] == {"threshold": 3}
    assert made["versions"]["pandas"] == pd.__version__
    assert 0.1 <= made["wall_s"] < 10
    assert made["peak_memory_mb"] > 10
    assert made["finished"].endswith("Z")


def test_a_step_that_begins_again_is_not_done():
    make_step()
    manifest.require("cpu", *KEY)
    step = begin()
    with pytest.raises(InputError, match="has not been run yet"):
        manifest.require("cpu", *KEY)
    manifest.release(step.folder)


@pytest.mark.fault
def test_a_promised_output_that_is_missing_is_not_done(results):
    with pytest.raises(InputError, match="promised"):
        manifest.finish(begin(), outputs=["nothing.csv"])
    assert not paths.manifest_path("cpu", *KEY).exists()


def test_begin_removes_what_killed_runs_left(results):
    step = begin()
    (step.folder / ".tmp-1-half.csv").write_text("half")
    (step.folder / ".tmp-1-merged").mkdir()
    (step.folder / "checkpoints").mkdir()
    assert sorted(os.listdir(begin().folder)) == [".lock", "checkpoints"]


@pytest.mark.fault
def test_require_names_the_command_that_makes_the_step():
    with pytest.raises(InputError) as error:
        manifest.require("cpu", "04_grpo", "dereason", 1)
    command = "python -m dereason_utils.run 04_grpo --profile cpu --arm dereason --seed 1"
    assert str(error.value) == (
        f"04_grpo dereason seed 1 of profile cpu has not been run yet: make it with `{command}`."
    )


def _remove(folder):
    (folder / "a.txt").unlink()


def _cut(folder):
    (folder / "a.txt").write_text("")


def _change(folder):
    (folder / "a.txt").write_text("b\n")


def _change_in_folder(folder):
    (folder / "merged" / "weights").write_text("12346")


def _add_to_folder(folder):
    (folder / "merged" / "empty").write_text("")


def _truncate_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:100])


def _other_step(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_remove, "a.txt is missing"),
        (_cut, "has 0 bytes and its manifest says 2"),
        (_change, "other content"),
        (_change_in_folder, "other content"),
        (_add_to_folder, "other content"),
        (_truncate_manifest, "is damaged"),
        (_other_step, "moved or copied"),
    ],
)
def test_require_refuses_a_damaged_step(damage, words):
    damage(make_step().folder)
    with pytest.raises(InputError, match=words) as error:
        manifest.require("cpu", *KEY)
    assert "python -m dereason_utils.run 02_split --profile cpu --seed 0" in str(error.value)


def test_require_can_look_at_single_outputs():
    """06_figures reads committed tables, where git has left the models out."""
    _change_in_folder(make_step().folder)
    assert manifest.require("cpu", *KEY, outputs=["a.txt"]).seed == 0
    with pytest.raises(InputError, match="records no output 'b.txt'"):
        manifest.require("cpu", *KEY, outputs=["b.txt"])


@pytest.mark.fault
def test_results_of_another_format_version_are_left_alone():
    path = make_step().folder / "manifest.json"
    other = json.dumps({"format_version": 99, "whatever": 1})
    path.write_text(other)
    for attempt in (begin, lambda: manifest.require("cpu", *KEY)):
        with pytest.raises(InputError, match="format version 99"):
            attempt()
    assert path.read_text() == other


@pytest.mark.fault
def test_too_little_disk_is_refused_before_anything_is_removed():
    folder = make_step().folder
    with pytest.raises(InputError, match=r"needs 1000000000\.0 GB of free disk"):
        begin(need_bytes=10**18)
    assert (folder / "manifest.json").exists()


@pytest.mark.fault
def test_a_results_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be made"):
        begin()


@pytest.mark.fault
def test_a_read_only_results_folder(tmp_path, monkeypatch):
    folder = Path("/sys/kernel")  # where not even root may write
    if os.geteuid() != 0:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
    monkeypatch.setenv("DEREASON_RESULTS", str(folder))
    with pytest.raises(InputError, match="cannot be (written|made)"):
        begin()


HOLD = """
import sys, time
from dereason_utils import disk, manifest
step = manifest.begin("02_split", "cpu", seed=0, parameters={})
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.fault
def test_a_second_run_on_one_folder_refuses_until_the_first_is_dead():
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, cwd=paths.REPO) as first:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="Another run is writing to"):
            begin()
        first.kill()
    assert begin().seed == 0


@pytest.mark.fault
def test_a_worker_that_outlives_its_step_does_not_hold_the_folder():
    fork = "import os\nstep.folder\nif os.fork() == 0:\n    time.sleep(5)\n    os._exit(0)\nos._exit(0)"
    subprocess.run([sys.executable, "-c", HOLD.replace("time.sleep(60)", fork)], cwd=paths.REPO, check=True)
    assert begin().seed == 0


def test_what_several_steps_make_is_made_by_one_at_a_time(tmp_path):
    make = f"""
import pathlib, sys, time
from dereason_utils import disk
made = pathlib.Path({str(tmp_path)!r}) / "model"

with disk.one_at_a_time(made.parent):
    if made.exists():
        sys.exit("found")
    time.sleep(1)
    made.write_text("once")
"""
    started = [
        subprocess.Popen([sys.executable, "-c", make], stderr=subprocess.PIPE, text=True, cwd=paths.REPO)
        for _ in range(2)
    ]
    assert sorted(one.communicate(timeout=60)[1].strip() for one in started) == ["", "found"]
    assert sorted(one.returncode for one in started) == [0, 1]


def test_a_manifest_names_the_processor_with_its_kind_of_products():
    assert (
        processor.described("AMD EPYC", {"avx2", "avx512f", "avx512_bf16"})
        == "AMD EPYC, AVX-512 with bfloat16"
    )
    assert processor.described("arm64", set()) == "arm64"
    assert make_step().processor == processor.described(*processor.info())
