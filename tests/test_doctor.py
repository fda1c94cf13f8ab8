"""What the doctor says about good and bad installations, and one look at this one."""

import os
import subprocess
import sys

import pytest
import wheels

from dereason_utils import disk, doctor, paths

H100 = [("NVIDIA H100, driver 570.1", 80e9)]


def unreachable():
    raise OSError("timed out")


@pytest.mark.parametrize(
    ("finding", "level", "says"),
    [
        (doctor.python((3, 11, 7)), "ok", "3.11.7"),
        (doctor.python((3, 10, 1)), "wrong", "use 3.11"),
        (doctor.python((3, 14, 0)), "wrong", "use 3.11"),
        (doctor.compiler(True, True), "ok", ""),
        (doctor.compiler(False, True), "warning", "a C compiler not found"),
        (doctor.compiler(True, False), "warning", "Python's headers not found"),
        (doctor.threads(2, 2), "ok", "2 of 2"),
        (doctor.threads(1, 2), "warning", "unset OMP_NUM_THREADS"),
        (doctor.products({"avx2", "avx512f", "avx512_bf16"}), "ok", "AVX-512 with bfloat16"),
        (doctor.products({"avx2", "avx512f"}), "warning", "no bfloat16 instructions (AVX-512, AVX2)"),
        (
            doctor.products({"avx2"}),
            "warning",
            "(AVX2): training on this CPU takes several times as long as the README says, in float32",
        ),
        (doctor.products(set()), "warning", "nor AVX2"),
        (doctor.gpu([], None, False), "warning", "none found"),
        (doctor.gpu(H100, None, False), "wrong", "torch is built for CPUs"),
        (doctor.gpu(H100, "13.0", False), "wrong", "update the driver"),
        (doctor.gpu(H100, "13.0", True), "ok", "H100"),
        (doctor.space("disk", 9e9, 4, "", "wrong"), "ok", "9.0 GB free"),
        (doctor.space("disk", 1e9, 4, "", "wrong"), "wrong", "free some"),
        (doctor.hub(True, unreachable), "warning", "cannot be reached (timed out)"),
        (doctor.hub(False, lambda: None), "warning", "HF_TOKEN"),
        (doctor.hub(True, lambda: None), "ok", "reachable"),
        (doctor.kernel({"python3": "/env/share/jupyter/kernels/python3"}, "/env"), "ok", "python3"),
        (doctor.kernel({"python3": "/usr/share/jupyter/kernels/python3"}, "/env"), "wrong", "make setup"),
        (doctor.variables({"HOME": "/root", "OMP_NUM_THREADS": "2"}, 2), "ok", ""),
        (doctor.variables({"PYTHONPATH": "/odd"}, 2), "warning", "PYTHONPATH=/odd"),
        (doctor.variables({"OMP_NUM_THREADS": "1"}, 2), "warning", "OMP_NUM_THREADS=1"),
        (doctor.variables({"OMP_NUM_THREADS": "1"}, 1), "ok", ""),
        (doctor.variables({"PAPERMILL_X": "y", "CUDA_VISIBLE_DEVICES": ""}, 2), "warning", "PAPERMILL_X=y"),
    ],
)
def test_what_is_said(finding, level, says):
    assert (finding.level, says in finding.said) == (level, True), finding


LOCK = "# a comment\ntorch==2.13.0\nUnsloth_Zoo==2026.10.9  # with a reason\n"


@pytest.mark.parametrize(
    ("installed", "level", "says"),
    [
        ({"torch": "2.13.0+cpu", "unsloth-zoo": "2026.10.9"}, "ok", "all 2"),
        ({"torch": "2.12.0", "unsloth-zoo": "2026.10.9"}, "wrong", "torch 2.12.0 instead of 2.13.0"),
        ({"torch": "2.13.0"}, "wrong", "unsloth-zoo is missing"),
    ],
)
def test_installed_versions_are_compared_with_the_lock(installed, level, says):
    finding = doctor.packages(doctor.pins(LOCK), installed, "some.lock")
    assert finding.level == level and says in finding.said


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_the_locks_are_read_whole(scale):
    text = (paths.REPO / f"requirements-{scale}.lock").read_text()
    assert len(doctor.pins(text)) == sum(line[:1].isalpha() for line in text.splitlines())


@pytest.mark.fault
def test_a_damaged_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_CACHE", str(tmp_path))
    assert doctor.model_cache().said == "none yet: made on first use"
    (tmp_path / "tiny").mkdir()
    finding = doctor.model_cache()
    assert finding.level == "wrong" and str(tmp_path / "tiny") in finding.said


def test_what_is_no_model_in_the_cache_is_left_alone(tmp_path, monkeypatch):
    """The contract tests' wheels and the locks lie there too."""
    monkeypatch.setenv("DEREASON_CACHE", str(tmp_path))
    with disk.one_at_a_time(paths.cache_root() / ".locks" / "tiny"):
        pass
    (tmp_path / wheels.FOLDER).mkdir()
    assert doctor.model_cache().said == "none yet: made on first use"


@pytest.mark.parametrize(
    ("profile", "venv", "lock"), [("cpu", ".venv", "cpu"), ("single_gpu", ".venv-gpu", "gpu")]
)
def test_make_looks_at_the_environment_of_the_profile(profile, venv, lock):
    line = ["make", "--dry-run", "doctor", f"PROFILE={profile}"]
    done = subprocess.run(line, cwd=paths.REPO, capture_output=True, text=True, check=True)
    assert f"{venv}/bin/python -m dereason_utils.doctor --lock requirements-{lock}.lock" in done.stdout


@pytest.mark.fault
def test_an_environment_without_the_gpus_packages_is_told_which_set_up_is_meant():
    finding = doctor.packages({"vllm": "1.0"}, {}, doctor.GPU_LOCK)
    assert finding.said == "vllm is missing: make setup PROFILE=single_gpu (requirements-gpu.lock)"


def test_a_folder_that_does_not_exist_yet_can_be_made(tmp_path):
    assert doctor.folder("cache", tmp_path / "a" / "b", "X").level == "ok"
    (tmp_path / "file").write_text("")
    assert doctor.folder("cache", tmp_path / "file" / "b", "X").level == "wrong"


def test_this_installation_in_one_screen(tmp_path):
    """The real thing; the hub is an address that refuses at once."""
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "DEREASON_CACHE": str(tmp_path)}
    line = [sys.executable, "-m", "dereason_utils.doctor"]
    done = subprocess.run(line, cwd=paths.REPO, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.stderr == "" and 10 < len(lines) <= 24
    levels = [each.split()[0] for each in lines[1:-1]]
    assert set(levels) <= {"ok", "warning", "wrong"}
    assert done.returncode == int("wrong" in levels)
    assert "warning  hub        cannot be reached" in done.stdout


@pytest.mark.fault
def test_it_speaks_where_no_package_is_installed():
    """Python without its site-packages stands in for an environment that was never filled."""
    line = [sys.executable, "-S", "-m", "dereason_utils.doctor"]
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": ""}
    done = subprocess.run(line, cwd=paths.REPO, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "is missing" in done.stdout and "wrong    torch      cannot be imported" in done.stdout
