"""Figures draw what their tables hold, say where it comes from and keep their size."""

import dataclasses
import shlex
import subprocess
import sys
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import synthetic_results
from matplotlib.image import imread

from dereason_utils import (
    comparisons,
    disk,
    figure_data,
    figures,
    manifest,
    more_figures,
    paths,
    plotting,
    profiles,
    results,
    run,
)
from dereason_utils.split import ARMS

SETTINGS = profiles.load("cpu", {"arms": list(synthetic_results.SKILL), "seeds": [0, 1]})


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEREASON_RESULTS", str(tmp_path_factory.mktemp("results")))
        synthetic_results.write("cpu", test_size=80, gym_size=24)
        yield results.load("cpu", list(synthetic_results.SKILL), [0])


@pytest.fixture(scope="module")
def drawn(read):
    """Name -> (function, table)."""
    curve = figure_data.training_curve
    return {
        "figure1": (figures.figure1, figure_data.training_size(read)),
        "figure2": (figures.figure2, figure_data.subject_mix(read)),
        "figure3": (figures.figure3, curve(read, "reward")),
        "figure4": (figures.figure4, curve(read, "response_length")),
        "figure5": (figures.figure5, curve(read, "entropy")),
        "figure7": (more_figures.figure7, figure_data.accuracy_by_steps(read)),
        "figure8": (more_figures.figure8, figure_data.sft_curve(read)),
        "figure9": (figures.figure9, curve(read, "informative_share")),
        "figure3_scores": (
            lambda data: figures.by_score(data, "mean reward"),
            figure_data.by_score(read, "reward"),
        ),
        "figure10": (more_figures.figure10, comparisons.effects(read)),
        "figure11": (more_figures.figure11, figure_data.gains_by_steps(read)),
        "figure12": (more_figures.figure12, figure_data.pass_at_k_around_rl(read)),
        "figure13": (more_figures.figure13, figure_data.cost(read)),
        "figure14": (more_figures.figure14, figure_data.split_by_steps(read)),
    }


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


NAMES = [*(f"figure{i}" for i in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14)), "figure3_scores"]


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_is_written_with_its_data_and_source(name, drawn, read, tmp_path):
    draw, data = drawn[name]
    figure = draw(data)
    width = figure.get_size_inches()[0]
    assert width in (plotting.ONE_COLUMN, plotting.TWO_COLUMNS)
    names = plotting.save(figure, tmp_path, name, data, plotting.Provenance.of(read, SETTINGS))
    assert names == [f"{name}.csv", f"{name}.png", f"{name}.pdf"]
    picture = imread(tmp_path / f"{name}.png")
    assert picture.shape[1] == pytest.approx(200 * width, abs=1)
    assert picture[0, 0, :3].tolist() == [1, 1, 1] and picture[..., 3].min() == 1, "white, on a dark page too"
    assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / f"{name}.csv"), data.reset_index(drop=True), check_dtype=False
    )
    below = next(text for text in texts(figure) if text.startswith("Run: "))
    digest = disk.sha256_file(tmp_path / f"{name}.csv")[:12]
    for fact in ("profile cpu", "dereason", "seed 0", "06_figures", "Commit of the runs", digest):
        assert fact in " ".join(below.split())
    assert not plt.fignum_exists(figure.number)


def test_the_command_under_a_figure_gives_its_settings_again(read):
    words = shlex.split(plotting.Provenance.of(read, SETTINGS).command)
    assert words[1:6] == ["-m", "dereason_utils.run", "06_figures", "--profile", "cpu"]
    assert words[6::2] == ["-o", "-o"]
    again = profiles.load("cpu", run.parse_overrides(words[7::2]))
    assert profiles.stage_settings(again, "06_figures") == profiles.stage_settings(SETTINGS, "06_figures")
    assert " -o " not in plotting.Provenance.of(read, profiles.load("cpu")).command


def test_the_same_data_give_the_same_bytes(drawn, read, tmp_path):
    draw, data = drawn["figure3"]
    for place in ("a", "b"):
        plotting.save(draw(data), tmp_path / place, "figure3", data, plotting.Provenance.of(read, SETTINGS))
    for ending in ("csv", "png", "pdf"):
        assert (tmp_path / "a" / f"figure3.{ending}").read_bytes() == (
            tmp_path / "b" / f"figure3.{ending}"
        ).read_bytes()


def test_the_lines_below_a_figure_stay_inside():
    commits = ", ".join(["0684d0e68a"] * 12)  # digits are wide letters
    source = plotting.Provenance("cpu", {(0,): ["base"]}, commits, "python -m dereason_utils.run 06_figures")
    with plt.style.context(plotting.STYLE):
        figure = plotting.not_run("Nothing", "a figure of one column")
        plotting._write_below(figure, source.line("0" * 64))
        figure.draw_without_rendering()
    [text] = figure.texts
    box = text.get_window_extent()
    assert text.get_text().count("\n") > 2 and figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
    plt.close(figure)


@pytest.mark.parametrize("name", ["figure3", "figure3_scores", "figure7", "figure8", "figure11", "figure12"])
def test_labels_do_not_overlap_and_stay_inside(name, drawn, read):
    draw, data = drawn[name]
    figure = draw(data)
    plotting._write_below(figure, plotting.Provenance.of(read, SETTINGS).line("0" * 64))
    figure.draw_without_rendering()
    whole = figure.bbox
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts if text.get_text()]
        for i, box in enumerate(boxes):
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
            assert not any(box.shrunk(1, 0.9).overlaps(other.shrunk(1, 0.9)) for other in boxes[:i])
    plt.close(figure)


@pytest.mark.parametrize("count", range(1, plotting.MOST_ARMS + 1))
def test_labels_of_the_split_by_steps_stay_apart_whatever_number_of_arms_it_has(count):
    arms = [
        "rl_only",
        "sft_only",
        "sft_then_hard_sft",
        "random_split",
        "sft_easy",
        "reversed",
        "threshold_2",
        "passrate_split",
    ]
    row = {"difference": 0.0, "low": -1.0, "high": 1.0, "seeds": 3}
    data = pd.DataFrame(
        [{"arm": arm, "steps": steps, **row} for arm in arms[:count] for steps in range(1, 7)]
    )
    figure = more_figures.figure14(data)
    figure.draw_without_rendering()
    axes = [axis for axis in figure.axes if axis.axison]
    said = [
        text for axis in axes for text in (axis.xaxis.label, axis.yaxis.label, axis.title, axis._left_title)
    ]
    boxes = [text.get_window_extent() for text in said if text.get_text()]
    assert len(axes) == count and len(boxes) > count
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1
        assert not any(box.overlaps(other) for other in boxes[:i])
    plt.close(figure)


def test_the_style_has_the_palette():
    with plt.style.context(plotting.STYLE):
        assert [entry["color"] for entry in plt.rcParams["axes.prop_cycle"]] == list(plotting.PALETTE)


def test_training_size_holds_the_arms_problem_counts(drawn, read):
    data = drawn["figure1"][1]
    assert set(data["problems"]) == {0, 800} and set(data["method"]) == {"SFT", "RL"}
    figure = figures.figure1(data)
    assert any("not run at this profile" in text for text in texts(figure))
    plt.close(figure)


def test_subject_mix_sums_to_one_per_score(drawn, read):
    data = drawn["figure2"][1]
    assert data.groupby("score")["share"].sum().tolist() == pytest.approx([1] * 5)
    assert data["problems"].sum() == len(read.scores)


def test_training_curve_keeps_values_and_adds_slopes(drawn, read):
    data = drawn["figure3"][1]
    own = data[data["arm"] == "dereason"]
    steps = read.grpo[read.grpo["arm"] == "dereason"]
    assert own["value"].tolist() == steps["reward"].tolist()
    assert own["smoothed"].iloc[10] == pytest.approx(steps["reward"].iloc[8:13].mean())
    assert set(data[data["start"] == "from base"]["arm"]) == {"rl_only"}
    assert (own["slope_low"] > 0).all()


def test_short_curves_are_drawn_as_they_are(read):
    short = results.Results(**{**vars(read), "grpo": read.grpo[read.grpo["step"] <= 3]})
    data = figure_data.training_curve(short, "reward")
    np.testing.assert_allclose(data["smoothed"], data["value"], atol=1e-9)
    assert data["slope"].isna().all()
    plt.close(figures.figure3(data))


WITHOUT_TORCH = """
import sys


class NoTorch:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "transformers", "trl", "unsloth"):
            raise ImportError(f"{name} is not needed here")


sys.meta_path.insert(0, NoTorch())
cells = __import__("json").load(open(sys.argv[1]))["cells"]
names = {}
for cell in cells:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]).replace('"cpu"', '"smoke"'), names)
"""


def test_the_notebook_runs_without_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    synthetic_results.write("smoke", test_size=24, gym_size=24, samples=2, train=40, rl_steps=3)
    notebook = str(paths.notebook_path("06_figures"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, notebook], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = manifest.require("smoke", "06_figures")
    wanted = {f"table{n}.{ending}" for n in (1, 2) for ending in ("csv", "md", "tex", "html")}
    wanted |= {f"figure{n}.{ending}" for n in range(1, 10) for ending in ("csv", "png", "pdf")}
    assert wanted <= set(written.outputs) and len(written.inputs) == 13


def test_what_was_not_run_says_so(read):
    none = results.Results(**{**vars(read), "grpo": read.grpo.iloc[:0], "sft": read.sft.iloc[:0]})
    for figure in (
        figures.figure6(None),
        figures.figure3(figure_data.training_curve(none, "reward")),
        more_figures.figure8(figure_data.sft_curve(none)),
    ):
        assert "not run" in texts(figure)
        plt.close(figure)


def test_checkpoints_are_drawn_when_there_are_any():
    rows = [
        (start, arm, 0, step, 20 + step, 15 + step, 25 + step)
        for start, arm in (("from SFT", "dereason"), ("from base", "rl_only"))
        for step in (0, 8, 16)
    ]
    data = pd.DataFrame(rows, columns=["start", "arm", "seed", "step", "accuracy", "low", "high"])
    figure = figures.figure6(data)
    assert {"DeReason", "RL only"} <= set(texts(figure)) and "not run" not in texts(figure)
    lines = [line.get_ydata() for axis in figure.axes for line in axis.get_lines()]
    assert any(np.array_equal(line, [20, 28, 36]) for line in lines)
    plt.close(figure)


def test_rewards_per_score_are_the_rollouts_means(drawn, read):
    data = drawn["figure3_scores"][1]
    path = paths.step_dir("cpu", "04_grpo", "rl_only", 0) / "rollouts.parquet"
    rows = pd.read_parquet(path).merge(read.scores[["id", "score"]], on="id")
    own = rows[(rows["score"] == 2) & (rows["step"] == 5)]["reward"].mean()
    shown = data[(data["start"] == "from base") & (data["score"] == 2) & (data["step"] == 5)]
    assert shown["value"].item() == pytest.approx(own, abs=1e-6)
    assert set(data["training"]) == {"rl_only", "random_split"}


def test_gains_compare_arms_that_differ_in_one_stage(drawn, read):
    data = drawn["figure11"][1]
    assert set(data["stage"]) == {"SFT, from base", "RL, from base"}
    items = read.items[read.items["steps"] == 2].groupby("arm")["correct"].mean()
    row = data[(data["stage"] == "SFT, from base") & (data["steps"] == 2)]
    assert row["accuracy"].item() == pytest.approx(100 * (items["sft_only"] - items["base"]), abs=0.006)


def test_the_split_is_set_beside_every_trained_arm_by_steps(drawn, read):
    data = drawn["figure14"][1]
    assert set(data["arm"]) == {"rl_only", "sft_only", "random_split"} and set(data["steps"]) == set(
        range(1, 9)
    )
    rates = read.items[read.items["steps"] == 4].groupby("arm")["correct"].mean()
    row = data[(data["arm"] == "random_split") & (data["steps"] == 4)].iloc[0]
    assert row["difference"] == pytest.approx(100 * (rates["dereason"] - rates["random_split"]), abs=0.006)
    assert row["low"] < row["difference"] < row["high"]
    figure = more_figures.figure14(data)
    assert {"minus RL only", "minus SFT only", "minus Random split"} <= set(texts(figure))
    plt.close(figure)


def test_without_dereason_its_figure_says_so(read):
    lacking = dataclasses.replace(read, arms=tuple(arm for arm in read.arms if arm != "dereason"))
    figure = more_figures.figure14(figure_data.split_by_steps(lacking))
    assert "not run" in texts(figure)
    plt.close(figure)


def test_the_split_beside_many_arms_shows_the_main_ones_and_counts_the_others():
    def beside(arms):
        rows = [(arm, 2, steps, 1.0, 0.5, 1.5) for arm in arms for steps in (1, 2)]
        names = ["arm", "seeds", "steps", "difference", "low", "high"]
        figure = more_figures.figure14(pd.DataFrame(rows, columns=names))
        plt.close(figure)
        return texts(figure)

    sweep = [f"rl_score_{score}" for score in range(1, 6)] + [
        f"sft_rl_score_{score}" for score in range(1, 6)
    ]
    shown = beside(["rl_only", *sweep])
    assert [text for text in shown if text.startswith("minus")] == ["minus RL only"]
    assert any("(10 more arms in the CSV file)" in text for text in shown)
    shown = beside(sweep)
    assert sum(text.startswith("minus") for text in shown) == plotting.MOST_ARMS
    assert any("(2 more arms in the CSV file)" in text for text in shown)


def test_two_figures_of_one_difference_say_the_same(read):
    """dereason minus sft_easy is what RL adds (Figure 11) and what the split is ahead by (Figure 14)."""
    renamed = read.items.assign(arm=read.items["arm"].astype(str).replace("sft_only", "sft_easy"))
    both = dataclasses.replace(read, items=renamed, arms=("sft_easy", "dereason"))
    gains, split = figure_data.gains_by_steps(both), figure_data.split_by_steps(both)
    assert set(gains["a"]) == {"dereason"} and set(split["arm"]) == {"sft_easy"}
    assert (
        gains[["accuracy", "low", "high"]].to_numpy().tolist()
        == split[["difference", "low", "high"]].to_numpy().tolist()
    )


def test_pass_at_k_before_and_after_rl_is_that_of_the_seeds_that_both_have(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    arms = ("base", "sft_only", "sft_all_then_rl_all")
    synthetic_results.write(
        "smoke", arms, (0, 1, 2), other_seeds=2, test_size=48, gym_size=24, train=64, rl_steps=3
    )
    read = results.load("smoke", arms, (0, 1, 2), other_seeds=2)
    data = figure_data.pass_at_k_around_rl(read)
    assert set(data["seeds"]) == {2} and set(data["stage"]) == {"RL, from SFT on all"}
    items = read.items[(read.items["table"] == "general") & (read.items["seed"] < 2)]
    means = items[items["arm"] == "sft_only"].groupby("benchmark")["correct"].mean()
    before = data[(data["when"] == "before") & (data["k"] == 1)]["accuracy"].item()
    assert before == pytest.approx(100 * means.mean(), abs=0.01)


def test_a_figures_small_print_tells_arms_with_fewer_seeds_apart():
    runs = {(0, 1, 2): ["base", "dereason"], (0,): ["reversed"]}
    line = plotting.Provenance("nano", runs, "abc", "redraw").line("0" * 64)
    assert line.startswith(
        "Run: profile nano, arms base, dereason, seeds 0 to 2; reversed, seed 0. Redraw: redraw."
    )


def test_figure_1_says_how_many_problems_rl_draws(drawn):
    data = drawn["figure1"][1].assign(drawn=lambda table: table["problems"])
    assert not any("RL draws" in text for text in texts(figures.figure1(data)))
    few = data.assign(drawn=[min(count, 24) if method == "RL" else count
                             for count, method in zip(data["problems"], data["method"], strict=True)])  # fmt: skip
    assert sum("(of which RL draws 24 at most)" in text for text in texts(figures.figure1(few))) == 2


def test_cost_counts_an_arms_own_training(drawn, read):
    data = drawn["figure13"][1].set_index("arm")
    rollouts = paths.step_dir("cpu", "04_grpo", "rl_only", 0) / "rollouts.parquet"
    assert data.loc["rl_only", "rl_tokens"] == pd.read_parquet(rollouts)["tokens"].sum()
    assert data.loc["base", ["sft_tokens", "rl_tokens", "hours"]].tolist() == [0, 0, 0]
    assert (data["core_hours"] >= data["hours"]).all()


def test_a_name_in_the_cost_figure_covers_no_marker_and_no_other_name(drawn, read, tmp_path):
    draw, data = drawn["figure13"]
    crowded = data.assign(sft_tokens=[100 + 9 * i for i in range(len(data))], accuracy=10.0, rl_tokens=0)
    figure = draw(crowded)
    plotting.save(figure, tmp_path, "figure13", crowded, plotting.Provenance.of(read, SETTINGS))
    figure.draw_without_rendering()
    for axis in figure.axes:
        names = [text.get_window_extent() for text in axis.texts]
        assert len(names) == len(data)
        markers = np.concatenate([axis.transData.transform(line.get_xydata()) for line in axis.lines])
        assert not any(one.overlaps(other) for one, other in combinations(names, 2))
        assert not any(name.contains(*marker) for name in names for marker in markers)


def test_the_cost_figure_marks_arms_with_fewer_seeds(drawn):
    draw, data = drawn["figure13"]
    assert set(data["seeds"]) == {1} and not any("*" in text for text in texts(draw(data)))
    seeds = {"base": 1, "sft_only": 3}  # the base model is evaluated once, whatever the seeds
    seen = texts(draw(data.assign(seeds=[seeds.get(arm, 5) for arm in data["arm"]])))
    assert "SFT only*" in seen and "DeReason" in seen and "Base" in seen
    assert sum("* 3 of 5 seeds" in text for text in seen) == 2, "under both panels"


def test_of_very_many_pairs_those_with_dereason_are_drawn():
    arms = ["arm_0", "dereason", *(f"arm_{i}" for i in range(1, 9))]
    rows = [
        {
            "a": a,
            "b": b,
            "table": table,
            "difference": 1.0,
            "low": 0.5,
            "high": 1.5,
            "p_holm": 0.01,
            "seeds": 1 if "arm_8" in (a, b) else 3,
        }
        for place, a in enumerate(arms)
        for b in arms[place + 1 :]
        for table in ("general", "mathematics")
    ]
    figure = more_figures.figure10(pd.DataFrame(rows))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == 9 and all(name.startswith("DeReason − ") for name in names)
    assert [name for name in names if "seeds" in name] == ["DeReason − arm 8 (1 of 3 seeds)"]
    places = {
        names[round(y[0])]: x
        for line in figure.axes[0].lines[1:]
        for x, y in [line.get_data()]
        if len(x) == 2
    }
    assert list(places["DeReason − arm 0"]) == [-1.5, -0.5]  # the pair was arm_0 minus dereason
    assert list(places["DeReason − arm 1"]) == [0.5, 1.5]
    assert any("all 45 pairs: effects.csv" in text for text in texts(figure))
    plt.close(figure)


def test_a_curve_of_few_seeds_shows_each_and_of_many_their_mean_with_its_interval():
    steps = [1, 2]
    rows = [(seed, step, 10.0 * step + seed) for seed in range(4) for step in steps]
    line = pd.DataFrame(rows, columns=["seed", "step", "value"])
    _, axis = plt.subplots()
    assert not plotting.curve(axis, line[line["seed"] < 2], ["value"], "red")
    assert len(axis.lines) == 2 and not axis.collections
    _, axis = plt.subplots()
    assert plotting.curve(axis, line, ["value"], "red")
    (mean,), (band,) = axis.lines, axis.collections
    assert mean.get_ydata().tolist() == [11.5, 21.5]
    half = 3.182446 * np.std([0, 1, 2, 3], ddof=1) / 2  # t with three degrees of freedom
    assert band.get_datalim(axis.transData).y0 == pytest.approx(11.5 - half)
    assert band.get_datalim(axis.transData).y1 == pytest.approx(21.5 + half)


def test_of_many_arms_a_figure_shows_those_that_have_a_colour_of_their_own():
    few = pd.DataFrame({"arm": list(ARMS)[:8]})
    assert plotting.main_arms(few)[0].equals(few) and plotting.main_arms(few)[1] == ""
    shown, more = plotting.main_arms(pd.DataFrame({"arm": list(ARMS)}))
    assert {"base", "dereason", "reversed"} <= set(shown["arm"])
    assert shown["arm"].nunique() == plotting.MOST_ARMS
    assert f"({len(ARMS) - 8} more arms" in more
    matched = ("sft_only_updates", "sft_only_tokens")
    wider, more = plotting.main_arms(pd.DataFrame({"arm": list(ARMS)}), also=matched)
    assert set(wider["arm"]) == {*shown["arm"], *matched} and f"({len(ARMS) - 10} more arms" in more
    others = [arm for arm in ARMS if arm not in plotting._MAIN]
    shown, more = plotting.main_arms(pd.DataFrame({"arm": others}))
    assert shown["arm"].tolist() == others[: plotting.MOST_ARMS]
    assert f"({len(others) - plotting.MOST_ARMS} more arms" in more
