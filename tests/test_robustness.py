"""The README's table of robustness says what the committed files say."""

import pandas as pd
import pytest

from dereason_utils import paths, robustness
from dereason_utils.errors import InputError

COMMITTED = robustness.folder()
needs_files = pytest.mark.skipif(
    not list(COMMITTED.glob("*.csv")),
    reason="results/robustness is made by hand: see dereason_utils.robustness",
)


@needs_files
def test_readme_shows_what_the_files_hold():
    assert robustness.block(COMMITTED) in (paths.REPO / "README.md").read_text(encoding="utf-8")


@needs_files
def test_the_count_of_fault_tests_is_todays():
    pd.testing.assert_frame_equal(pd.read_csv(COMMITTED / "faults.csv"), robustness.faults())


CHECKER = """checker,cases,hostile,accepted,wrongly accepted,hostile wrongly accepted,stopped or failed,precision,recall,\
"worst wall time, s","worker memory, MB"
math-verify alone,100,40,70,9,8,3,0.8714,0.9,2.0,
dereason_utils.verify,100,40,60,0,0,0,1.0,0.95,0.71,210.4
"""
KILLS = (
    "stage,target,seconds,resumed_from,identical\n03_sft,kernel,12.5,4,True\n04_grpo,runner,31.0,2,False\n"
)


def test_the_table_by_hand(tmp_path):
    (tmp_path / "checker.csv").write_text(CHECKER)
    (tmp_path / "kills.csv").write_text(KILLS)
    (tmp_path / "faults.csv").write_text("file,tests\ntests/a.py,7\ntests/b.py,5\n")
    rows = robustness.table(tmp_path).set_index("what was tried")
    assert rows.loc["runs killed at a random moment (03_sft, 04_grpo)"].tolist() == [
        2,
        "1 ended with the same result",
    ]
    assert rows.loc["bad inputs and faults", "tried"] == 12
    assert rows.loc["hostile answers"].tolist() == [40, "0 wrongly accepted (math-verify alone: 8)"]
    assert rows.iloc[3]["result"] == "precision 1.000, recall 0.950 (math-verify alone: 0.871, 0.900)"
    assert rows.iloc[4]["result"].startswith("0.71 s, 210 MB in a worker process")


def test_a_file_that_is_missing_leaves_its_rows_out(tmp_path):
    with pytest.raises(InputError, match="holds none of"):
        robustness.table(tmp_path)
    (tmp_path / "kills.csv").write_text(KILLS)
    assert len(robustness.table(tmp_path)) == 1


def test_writing_and_checking_a_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(robustness, "folder", lambda: tmp_path)
    (tmp_path / "kills.csv").write_text(KILLS)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{robustness.BEGIN}\n{robustness.END}\nafter\n")
    assert robustness.main([str(readme), "--check"]) == 2
    assert "differs from" in capsys.readouterr().err
    assert robustness.main([str(readme)]) == 0
    assert robustness.main([str(readme), "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "| 1 ended with the same result |" in text
