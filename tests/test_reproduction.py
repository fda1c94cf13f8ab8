"""A run beside the committed one: what is the same, how far apart the arms are, and what is refused."""

import subprocess

import pandas as pd
import pytest
import synthetic_results

from dereason_utils import manifest, paths, reproduction
from dereason_utils.errors import InputError

ARMS = ("base", "rl_only", "dereason")


def written(monkeypatch, root, arms=ARMS, seeds=(0, 1), **sizes):
    monkeypatch.setenv("DEREASON_RESULTS", str(root))
    synthetic_results.write("cpu", arms, seeds, **({"test_size": 60, "gym_size": 24} | sizes))
    return root / "cpu"


def rewrite(profile_folder, arm, seed, change):
    """Change the items of one evaluation, and its manifest with them."""
    folder = profile_folder / "05_eval" / arm / f"seed{seed}"
    items = change(pd.read_parquet(folder / "items.parquet"))
    begun = manifest.begin("05_eval", "cpu", arm, seed, parameters={})
    items.to_parquet(folder / "items.parquet")
    manifest.finish(begun, outputs=["items.parquet"])


def all_wrong(items):
    return items.assign(completion="none", verdict="incorrect", correct=False)


def test_the_same_run_has_the_same_bytes_and_no_difference(tmp_path, monkeypatch):
    committed, here = (written(monkeypatch, tmp_path / name) for name in ("committed", "here"))
    table = reproduction.steps(reproduction.pairs(here, committed))
    assert (table["steps"] == table["same_bytes"]).all() and (table["differing"] == "").all()
    assert table.set_index("step").loc["04_grpo dereason", "steps"] == 2
    arms = reproduction.averages(reproduction.pairs(here, committed)).set_index("arm")
    assert list(arms.index) == list(ARMS) and (arms["same_answers"] == 100).all()
    assert (arms[["difference", "low", "high"]] == 0).all(axis=None)
    assert arms["seeds"].tolist() == [1, 2, 2]


def test_another_outcome_is_named_with_its_difference(tmp_path, monkeypatch):
    committed, here = (written(monkeypatch, tmp_path / name) for name in ("committed", "here"))
    rewrite(here, "dereason", 1, all_wrong)
    table = reproduction.steps(reproduction.pairs(here, committed)).set_index("step")
    assert table.loc["05_eval dereason"].tolist() == [2, 1, "items.parquet"]
    assert table.loc["05_eval rl_only"].tolist() == [2, 2, ""]
    arms = reproduction.averages(reproduction.pairs(here, committed)).set_index("arm")
    shown = arms.loc["dereason"]
    assert shown["same_answers"] == 50 and shown["here"] - shown["committed"] == pytest.approx(
        shown["difference"]
    )
    assert shown["low"] < shown["difference"] < -10
    made = reproduction.text("cpu", here, committed)
    assert f"{shown['difference']:+.1f} [" in made and "SFT on easy + RL on hard" in made


def test_one_seed_of_many_can_be_run_again(tmp_path, monkeypatch):
    committed = written(monkeypatch, tmp_path / "committed")
    here = written(monkeypatch, tmp_path / "here", arms=("rl_only",), seeds=(1,))
    assert reproduction.averages(reproduction.pairs(here, committed))[["arm", "seeds"]].values.tolist() == [
        ["rl_only", 1]
    ]
    assert "05_eval base" not in set(reproduction.steps(reproduction.pairs(here, committed))["step"])


def test_other_settings_are_named_as_such(tmp_path, monkeypatch):
    committed, here = (written(monkeypatch, tmp_path / name) for name in ("committed", "here"))
    path = here / "05_eval" / "dereason" / "seed0" / paths.MANIFEST
    made = manifest.load(path)
    path.write_text(made.model_copy(update={"parameters": {"eval": {"samples": 3}}}).model_dump_json())
    table = reproduction.steps(reproduction.pairs(here, committed)).set_index("step")
    assert table.loc["05_eval dereason"].tolist() == [2, 1, "settings"]


@pytest.mark.fault
def test_other_questions_are_refused(tmp_path, monkeypatch):
    committed = written(monkeypatch, tmp_path / "committed")
    here = written(monkeypatch, tmp_path / "here", test_size=72)
    with pytest.raises(InputError, match="base was asked other questions.*same eval settings"):
        reproduction.averages(reproduction.pairs(here, committed))


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "REPO", tmp_path)
    written(monkeypatch, tmp_path / "results")
    assert reproduction.main(["--profile", "cpu"]) == 2
    assert "names no other folder than results" in capsys.readouterr().err
    here = written(monkeypatch, tmp_path / "reproduced" / "results", seeds=(0,))
    assert reproduction.main(["--profile", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == (here / reproduction.REPORT).read_text().strip()
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path / "empty"))
    assert reproduction.main(["--profile", "cpu"]) == 2
    assert "share no finished step" in capsys.readouterr().err
    assert reproduction.main(["--profile", "smoke"]) == 0
    assert "No run of profile smoke is committed" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "moved"), [([], False), (["ANEW=1"], True)])
def test_anew_leaves_the_committed_results_alone(flags, moved, monkeypatch):
    for name in ("DEREASON_RESULTS", "DEREASON_RUNS"):
        monkeypatch.delenv(name, raising=False)
    asked = "include Makefile\nasked:\n\t@echo $$DEREASON_RESULTS $$DEREASON_RUNS\n"
    line = ["make", "--no-print-directory", "--file", "-", "asked", *flags]
    told = subprocess.run(line, cwd=paths.REPO, input=asked, capture_output=True, text=True, check=True)
    roots = [str(paths.REPO / "reproduced" / name) for name in ("results", "papermill_runs")]
    assert told.stdout.split() == (roots if moved else [])
