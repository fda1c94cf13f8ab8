"""What is committed agrees with itself: README, tables, per-item files, and the checker of today."""

import pandas as pd
import pytest

from dereason_utils import disk, manifest, paths, render
from dereason_utils.verify import extract_answer

COMMITTED = paths.REPO / "results" / "cpu"
needs_results = pytest.mark.skipif(
    not (COMMITTED / "06_figures" / "manifest.json").exists(),
    reason="results/cpu is made by `make reproduce`",
)


@needs_results
def test_readme_shows_what_the_table_holds():
    assert render.readme_is_current(paths.REPO / "README.md", COMMITTED / "06_figures" / "table1.csv")


@needs_results
def test_committed_tables_hold_what_the_item_files_hold():
    for name, table in (("table1", "general"), ("table2", "mathematics")):
        shown = pd.read_csv(COMMITTED / "06_figures" / f"{name}.csv").set_index("arm")
        for path in sorted((COMMITTED / "05_eval").glob("*/seed0/items.parquet")):
            rows = pd.read_parquet(path)
            for benchmark, part in rows[rows["table"] == table].groupby("benchmark"):
                assert shown.loc[path.parts[-3], benchmark] == pytest.approx(
                    100 * part["correct"].mean(), abs=0.006
                )


@needs_results
def test_committed_files_are_those_of_their_manifests():
    for path in sorted(COMMITTED.rglob("manifest.json")):
        step = manifest.load(path)
        for name, recorded in step.outputs.items():
            file = path.parent / name
            if file.is_file() and name != "problems.parquet":  # models and the corpus are not committed
                assert disk.sha256_file(file) == recorded.sha256, file


@needs_results
def test_todays_checker_extracts_what_the_committed_rows_say():
    for path in sorted((COMMITTED / "05_eval").glob("*/seed0/items.parquet")):
        rows = pd.read_parquet(path, columns=["completion", "extracted"])
        for completion, extracted in zip(rows["completion"], rows["extracted"], strict=True):
            assert extract_answer(completion)[0] == (None if pd.isna(extracted) else extracted)
