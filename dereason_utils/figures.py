"""Figures 1 to 6 in the paper's sense, and 9, drawn like them: each takes a table of `figure_data`, returns a figure.

data = figure_data.training_curve(read, "reward")
plotting.save(figures.figure3(data), folder, "figure3", data, plotting.Provenance.of(read, profile))
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from dereason_utils.figure_data import STARTS
from dereason_utils.plotting import (
    GREY,
    PALETTE,
    TWO_COLUMNS,
    curve,
    from_zero,
    ink,
    label_arms,
    label_ends,
    look,
    main_arms,
    not_run,
    points,
    remark,
    shade,
    styled,
)
from dereason_utils.results import ONE_SCORE

MEANS = "\n(mean over seeds and its 95% interval)"
TITLES = {"general": "General benchmarks", "mathematics": "Mathematics"}


@styled
def figure1(data: pd.DataFrame) -> Figure:
    """Accuracy against the number of training problems, SFT and RL on the same problems."""
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.5))
    sizes = sorted(set(data["problems"]) - {0})
    largest = max(sizes, default=1)
    seen = data.loc[data["drawn"] < data["problems"], "drawn"]
    fewer = f"\n(of which RL draws {seen.max():.0f} at most)" if len(seen) else ""
    for axis, (table, title) in zip(axes, TITLES.items(), strict=True):
        ends = []
        for method, arm, shift in (("SFT", "sft_only", 0.012), ("RL", "rl_only", -0.012)):
            line = data[(data["table"] == table) & (data["method"] == method)].sort_values("problems")
            if line.empty:
                continue
            trained = line["problems"] > 0
            x = line["problems"] + shift * largest * trained  # apart, so that intervals do not overlap
            axis.plot(x, line["accuracy"], ls="--" if len(sizes) < 2 else "-", lw=0.9, color=look(arm)[0])
            points(axis, x[trained], line[trained], arm)
            points(axis, x[~trained], line[~trained], "base")
            ends.append((line["accuracy"].iloc[-1], method, look(arm)[0]))
        axis.set(title=title, xlabel="training problems" + fewer, xlim=(-0.05 * largest, 1.05 * largest))
        from_zero(axis)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        label_ends(axis, ends)
    axes[0].set_ylabel("accuracy in %, 95% interval")
    if len(sizes) < 2:
        remark(axes[0], "0 = base model; dashed: sizes\nin between not run at this profile")
    return figure


@styled
def figure2(data: pd.DataFrame) -> Figure:
    """Subject mix of the problems with each score."""
    figure, axis = plt.subplots(figsize=(TWO_COLUMNS, 2.3))
    # Mathematics first: the confound of the paper's Figure 2 then reads from the left edge.
    subjects = sorted(set(data["subject"]), key=lambda name: (name != "mathematics", name))
    scores = range(1, 6)
    left = np.zeros(len(scores))
    for subject, colour in zip(subjects, PALETTE * 3, strict=False):
        shares = 100 * data[data["subject"] == subject].set_index("score")["share"].reindex(
            scores, fill_value=0.0
        )
        axis.barh(scores, shares, left=left, height=0.74, color=colour, label=subject)
        for score, share, start in zip(scores, shares, left, strict=True):
            if share >= 4:
                axis.text(
                    start + share / 2,
                    score,
                    f"{share:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color=ink(colour),
                )
        left = left + shares.to_numpy()
    for score, total in data.groupby("score")["problems"].sum().reindex(scores, fill_value=0).items():
        axis.text(101, score, f"n = {total}", va="center")
    axis.set(
        xlim=(0, 100), ylim=(5.5, 0.5), xlabel="share of the problems with this score in %", ylabel="score"
    )
    axis.set_yticks(list(scores))
    axis.grid(axis="y", visible=False)
    figure.legend(
        loc="outside upper left",
        ncols=6,
        frameon=False,
        fontsize=7,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.2,
        handletextpad=0.4,
    )
    return figure


@styled
def figure3(data: pd.DataFrame) -> Figure:
    """Training reward over RL steps, with the slope of each curve."""
    return _curves(data, "mean reward of the step", slope="{:+z.2f} ± {:.2f}")


@styled
def figure4(data: pd.DataFrame) -> Figure:
    """Response length over RL steps, with the slope of each curve."""
    return _curves(data, "response length in tokens", slope="{:+z.0f} ± {:.0f}")


@styled
def figure5(data: pd.DataFrame) -> Figure:
    """Policy entropy over RL steps, on a logarithmic axis."""
    return _curves(data, "entropy in nats per token", log=True)


@styled
def figure6(data: pd.DataFrame | None) -> Figure:
    """Benchmark accuracy of RL checkpoints, of RL on one score each where that was run; None = not run.

    data: columns start ('from SFT' or 'from base'), arm, step, accuracy, low, high.
    """
    if data is None or data.empty:
        return not_run("Accuracy along RL", "the policy is not evaluated along RL at this profile")
    alone = data[data["arm"].isin(ONE_SCORE)]
    data, more = (data, "") if alone.empty else (alone, "\n(other arms in the CSV file)")
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.5), sharey=True)
    for axis, start in zip(axes, STARTS, strict=True):
        part = data[data["start"] == start]
        for place, (arm, line) in enumerate(part.groupby("arm", sort=False)):
            x = line["step"] + 0.01 * place * data["step"].max()  # so that intervals do not overlap
            axis.plot(x, line["accuracy"], color=look(arm)[0], lw=0.9)
            points(axis, x, line, arm)
        _finish_panel(axis, part, start)
        axis.set_xlabel(axis.get_xlabel() + more)
    axes[0].set_ylabel("accuracy in %, 95% interval")
    from_zero(axes[0])
    for axis, start in zip(axes, STARTS, strict=True):
        label_arms(axis, data[data["start"] == start], "accuracy")
    return figure


@styled
def figure9(data: pd.DataFrame) -> Figure:
    """Share of groups with differing rewards, the only ones from which GRPO learns."""
    return _curves(data, "share of informative groups", bottom=0.0)


@styled
def by_score(data: pd.DataFrame, ylabel: str) -> Figure:
    """Figures 3 and 4 as the paper draws them: a line per score, from SFT and from the base model.

    Of several seeds the mean of the running means, with its interval.
    """
    if data.empty:
        return not_run(f"{ylabel.capitalize()} per score", "no arm has RL on problems of all scores")
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.5), sharey=True)
    for axis, start in zip(axes, STARTS, strict=True):
        part = data[data["start"] == start]
        means = [curve(axis, line, ["smoothed"], shade(score)) for score, line in part.groupby("score")]
        pooled = len(part) > 0 and part["training"].nunique() == 1
        _finish_panel(axis, part, start + ", one training on all scores" * pooled)
        axis.set_xlabel(axis.get_xlabel() + MEANS * any(means))
    axes[0].set_ylabel(f"{ylabel}, running mean")
    axes[0].set_ylim(bottom=0)
    for axis, start in zip(axes, STARTS, strict=True):
        last = data[data["start"] == start].groupby(["score", "seed"])["smoothed"].last()
        ends = last.groupby("score").mean().items()
        label_ends(axis, [(y, f"score {score}", shade(score)) for score, y in ends])
    return figure


def _curves(
    data: pd.DataFrame, ylabel: str, slope: str | None = None, log: bool = False, bottom: float | None = None
) -> Figure:
    """One panel per start: steps faint, running mean strong, the arm's name and its slope at the end.

    Of several seeds the mean of the running means, with its interval.
    """
    if data.empty:
        return not_run(ylabel.capitalize(), "no arm of this run has an RL stage")
    data, more = main_arms(data)
    several = data.groupby("arm")["seed"].nunique().max() > 1
    slope = None if several else slope  # training_slopes has those of every seed
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.5), sharey=True)
    for axis, start in zip(axes, STARTS, strict=True):
        part = data[data["start"] == start]
        means = [
            curve(axis, line, ["value", "smoothed"], look(arm)[0])
            for arm, line in part.groupby("arm", sort=False)
        ]
        _finish_panel(axis, part, start)
        axis.set_xlabel(axis.get_xlabel() + MEANS * any(means) + more)
    axes[0].set_ylabel(ylabel)
    if log:
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[0].yaxis.set_minor_formatter(NullFormatter())
    if bottom is not None:
        axes[0].set_ylim(bottom=bottom)
    for axis, start in zip(axes, STARTS, strict=True):  # after the shared axis has its final range
        label_arms(axis, data[data["start"] == start], "smoothed", slope)
    if slope and data["slope"].notna().any():
        for axis in axes:
            axis.set_xlabel("RL step\n(numbers: slope per 10 steps, ± 95% interval)")
    return figure


def _finish_panel(axis: Axes, part: pd.DataFrame, start: str) -> None:
    axis.set(title=f"RL {start}", xlabel="RL step")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if part.empty:
        axis.text(0.5, 0.5, "not run", ha="center", va="center", color=GREY, transform=axis.transAxes)
