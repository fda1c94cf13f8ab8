"""What several test files set up alike."""

import os

import pytest

from dereason_utils import run


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """A folder of its own for results, runs and notebooks; test_workflow has one with notebooks in it."""
    for name in ("RESULTS", "RUNS", "NOTEBOOKS"):
        monkeypatch.setenv(f"DEREASON_{name}", str(tmp_path / name.lower()))
    for name in run.ENVIRONMENT:  # the runner sets them for its kernels; other tests must not inherit them
        monkeypatch.setenv(name, os.environ.get(name, run.ENVIRONMENT[name]))
    (tmp_path / "notebooks").mkdir()
    return tmp_path
