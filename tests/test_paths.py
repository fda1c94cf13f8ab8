import re

import pytest

from dereason_utils import paths
from dereason_utils.errors import InputError


@pytest.fixture(autouse=True)
def roots(tmp_path, monkeypatch):
    for name in ("RESULTS", "RUNS", "CACHE"):
        monkeypatch.setenv(f"DEREASON_{name}", str(tmp_path / name.lower()))
    return tmp_path


@pytest.mark.parametrize(
    ("step", "folder", "notebook"),
    [
        (("01_score",), "cpu/01_score", "cpu/01_score.ipynb"),
        (("02_split", None, 1), "cpu/02_split/seed1", "cpu/02_split_seed1.ipynb"),
        (("04_grpo", "dereason", 0), "cpu/04_grpo/dereason/seed0", "cpu/04_grpo_dereason_seed0.ipynb"),
        (("06_figures",), "cpu/06_figures", "cpu/06_figures.ipynb"),
    ],
)
def test_layout(roots, step, folder, notebook):
    assert paths.step_dir("cpu", *step) == roots / "results" / folder
    assert paths.manifest_path("cpu", *step) == roots / "results" / folder / "manifest.json"
    assert paths.run_notebook_path("cpu", *step) == roots / "runs" / notebook


@pytest.mark.fault
@pytest.mark.parametrize(
    "step",
    [
        ("07_more",),
        ("03_sft",),  # no arm, no seed
        ("03_sft", "dereason"),
        ("02_split", "dereason", 0),
        ("01_score", None, 0),
        ("03_sft", "../../etc", 0),
        ("03_sft", "a/b", 0),
        ("03_sft", "", 0),
        ("03_sft", "dereason", -1),
        ("03_sft", "dereason", "0"),
        ("03_sft", "dereason", True),
    ],
)
def test_impossible_steps_are_refused(step):
    with pytest.raises(InputError):
        paths.step_dir("cpu", *step)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["..", "", "a/b", "/etc", "Cpu", None, "x" * 100])
def test_profile_names_cannot_leave_the_results(name):
    with pytest.raises(InputError):
        paths.step_dir(name, "01_score")


@pytest.mark.parametrize("stage", paths.STAGES)
def test_the_pattern_filled_in_is_the_path(stage):
    arm, seed = ("dereason" if stage in paths.ARMED else None), (3 if stage in paths.SEEDED else None)
    pattern = paths.manifest_pattern("cpu", stage)
    assert pattern.format(arm=arm, seed=seed) == str(paths.manifest_path("cpu", stage, arm, seed))
    assert re.findall(r"{(\w+)}", pattern) == [
        *(["arm"] if arm is not None else []),
        *(["seed"] if seed is not None else []),
    ]


def test_relative_names_hide_the_roots(roots):
    assert paths.relative(roots / "results" / "cpu" / "x.csv") == "results/cpu/x.csv"
    assert paths.relative(roots / "cache" / "model") == "cache/model"
    assert paths.relative(paths.REPO / "notebooks" / "01_score.ipynb") == "notebooks/01_score.ipynb"
    with pytest.raises(InputError, match="outside the repository"):
        paths.relative(roots / "elsewhere")
