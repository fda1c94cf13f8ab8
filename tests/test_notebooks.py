"""The notebooks as files: order, narrative, short cells, no outputs, one cell of parameters."""

import json

import nbformat
import pytest

from dereason_utils import paths

NOTEBOOKS = [paths.notebook_path(stage) for stage in paths.STAGES]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_the_six_stages_and_nothing_else():
    assert sorted(path.name for path in paths.notebook_path("01_score").parent.glob("*.ipynb")) == [
        path.name for path in NOTEBOOKS
    ]


def test_committed_without_outputs(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_cells_are_short(notebook):
    lengths = [len(cell.source.splitlines()) for cell in notebook.cells if cell.cell_type == "code"]
    assert max(lengths) <= 15


def test_opens_with_what_it_does_and_typed_commented_parameters(notebook):
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# 0")
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0] is notebook.cells[1]
    for line in tagged[0].source.splitlines():
        assert ": " in line.split("=")[0] and "  # " in line, f"untyped or uncommented: {line}"


def test_first_working_cell_opens_the_step_and_the_last_one_finishes_it(notebook):
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert "open_step(" in code[1]
    assert "manifest.finish(" in code[-1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_in_a_stable_form(path):
    cells = json.loads(path.read_text())["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
