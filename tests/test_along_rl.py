"""Figure 6 and claim C11: accuracy on held-out problems along RL."""

import pandas as pd
import pytest
import synthetic_results

from dereason_utils import claims, figure_data, figures, measures, profiles, results, verdicts

ARMS = [f"sft_rl_score_{score}" for score in range(1, 6)]
LOOKS = {arm: [0.5, 0.4, 0.2] if arm[-1] in "123" else [0.5, 0.5, 0.55] for arm in ARMS}
SIZES = {"test_size": 60, "gym_size": 24, "samples": 2, "train": 96, "rl_steps": 9}


def study(tmp_path, monkeypatch, looks, seeds=(0, 1, 2)):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    synthetic_results.write("cpu", ARMS, seeds, looks=looks, **SIZES)
    return results.load("cpu", ARMS, seeds), profiles.load("cpu", {"arms": ARMS, "seeds": list(seeds)})


def test_figure_6_shows_the_accuracies_along_rl_with_intervals(tmp_path, monkeypatch):
    read, _ = study(tmp_path, monkeypatch, LOOKS)
    data = figure_data.along_rl(read)
    assert data.groupby("arm")["accuracy"].apply(list)["sft_rl_score_1"] == [50, 40, 20]
    assert data["step"].unique().tolist() == [0, 2, 4] and set(data["seeds"]) == {3}
    assert ((data["low"] < data["accuracy"]) & (data["accuracy"] < data["high"])).all()
    figure = figures.figure6(data)
    lines = [list(line.get_ydata()) for axis in figure.axes for line in axis.get_lines()]
    assert [50, 40, 20] in lines


def test_figure_6_leaves_other_arms_to_the_csv_file_where_each_score_was_run(tmp_path, monkeypatch):
    read, _ = study(tmp_path, monkeypatch, LOOKS)
    data = figure_data.along_rl(read)
    other = data[data["arm"] == ARMS[0]].assign(arm="dereason", accuracy=99.0, high=99.5)
    figure = figures.figure6(pd.concat([other, data]))
    heights = [y for axis in figure.axes for line in axis.get_lines() for y in line.get_ydata()]
    assert 99.0 not in heights and "other arms in the CSV file" in figure.axes[0].get_xlabel()
    assert [99.0] * 3 in [list(line.get_ydata()) for line in figures.figure6(other).axes[0].get_lines()]


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_fall_is_the_first_look_minus_the_last(tmp_path, monkeypatch, seeds):
    read, _ = study(tmp_path, monkeypatch, LOOKS, seeds)
    ((_, fall),) = measures.fall_along_rl(read, ARMS[:3])
    assert fall.value == pytest.approx(30) and fall.low < 30 < fall.high and fall.seeds == len(seeds)


def test_c11_asks_for_the_fall_and_says_when_it_was_not_measured(tmp_path, monkeypatch):
    read, profile = study(tmp_path / "with", monkeypatch, LOOKS)
    parts = verdicts.assess(read, profile)[1].set_index("id").loc["C11"]
    assert len(parts) == 3 and parts["value"].tolist()[1:] == pytest.approx([30, -5])
    read, profile = study(tmp_path / "without", monkeypatch, {})
    assert figure_data.along_rl(read).empty
    assert len(verdicts.assess(read, profile)[1].query("id == 'C11'")) == 1
    (claim,) = [claim for claim in claims.CLAIMS if claim.id == "C11"]
    assert "the fall along RL on score 1, 2 or 3" in verdicts._unmeasured(
        claim, verdicts._measured(claim, read)
    )
