"""Figures 7, 8 and 10 to 14, which the paper lacks: each takes a table of `figure_data`, returns a figure."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from dereason_utils import comparisons
from dereason_utils.claims import LEAST_SEEDS
from dereason_utils.figures import TITLES
from dereason_utils.plotting import (
    GREY,
    MOST_ARMS,
    ONE_COLUMN,
    TWO_COLUMNS,
    curve,
    from_zero,
    label_arms,
    label_ends,
    label_tops,
    look,
    main_arms,
    not_run,
    points,
    remark,
    short,
    styled,
)
from dereason_utils.split import ARMS

MOST_PAIRS = 30  # more do not fit on a page


@styled
def figure7(data: pd.DataFrame) -> Figure:
    """Accuracy against the true number of reasoning steps, per arm."""
    if data.empty:
        return not_run("Accuracy by steps", "no benchmark of this run knows its steps")
    figure, axis = plt.subplots(figsize=(TWO_COLUMNS, 2.8))
    data, more = main_arms(data)
    arms = list(dict.fromkeys(data["arm"]))
    for place, arm in enumerate(arms):
        line = data[data["arm"] == arm].sort_values("steps")
        x = line["steps"] + min(0.1, 0.6 / len(arms)) * (place - (len(arms) - 1) / 2)
        axis.plot(x, line["accuracy"], color=look(arm)[0], lw=1)
        points(axis, x, line, arm)
    axis.set(
        xlabel="true number of reasoning steps (mini_stem test problems)" + more,
        ylabel="accuracy in %, 95% interval",
    )
    from_zero(axis)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="x", visible=False)
    label_arms(axis, data.sort_values("steps"), "accuracy")
    return figure


@styled
def figure8(data: pd.DataFrame) -> Figure:
    """SFT learning curves: running mean of the training loss (line) and validation loss (points)."""
    if data.empty:
        return not_run("SFT learning curves", "no arm of this run has an SFT stage")
    figure, axis = plt.subplots(figsize=(ONE_COLUMN, 2.4))
    data, more = main_arms(data)
    for arm, line in data.groupby("arm", sort=False):
        colour, marker = look(arm)
        curve(axis, line, ["smoothed"], colour)
        measured = line.groupby("step")["validation_loss"].mean().dropna()
        axis.plot(
            measured.index,
            measured,
            ls="",
            marker=marker,
            ms=4.5,
            color=colour,
            markeredgecolor="white",
            markeredgewidth=0.5,
        )
    legend = "\n(line: training, running mean; points: validation;\nan epoch's last update has the longest that are left)"
    axis.set(xlabel="SFT step" + legend + more, ylabel="loss in nats per token")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    label_arms(axis, data, "smoothed")
    return figure


@styled
def figure10(data: pd.DataFrame) -> Figure:
    """Effect sizes of all arm pairs, a minus b, on both averages with 95% intervals; of many pairs dereason minus each other.

    A pair with fewer training seeds than others says so.
    """
    if data.empty:
        return not_run("Effects of all arm pairs", "this run has a single arm")
    everything = len(data[["a", "b"]].drop_duplicates())
    if everything > MOST_PAIRS:
        data = comparisons.of(data, "dereason")
    pairs = list(dict.fromkeys(zip(data["a"], data["b"], strict=True)))
    seeds = data.groupby(["a", "b"])["seeds"].min()
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 0.7 + 0.16 * len(pairs)), sharey=True)
    for axis, (table, title) in zip(axes, TITLES.items(), strict=True):
        part = data[data["table"] == table].set_index(["a", "b"])
        axis.axvline(0, color=GREY, lw=0.8)
        for place, pair in enumerate(pairs):
            if pair in part.index:
                row = part.loc[pair]
                colour = look(pair[0])[0] if row["p_holm"] < 0.05 else GREY
                axis.plot([row["low"], row["high"]], [place, place], color=colour, lw=1)
                axis.plot(row["difference"], place, marker="o", ms=3.5, color=colour)
        axis.set(title=title, xlabel="difference in points, 95% interval", ylim=(len(pairs) - 0.5, -0.5))
        axis.grid(axis="y", visible=False)
    most = seeds.max()
    names = [
        f"{short(a)} − {short(b)}" + (f" ({seeds[a, b]} of {most} seeds)" if seeds[a, b] < most else "")
        for a, b in pairs
    ]
    axes[0].set_yticks(range(len(pairs)), names, fontsize=6.5)
    rest = f"\nall {everything} pairs: effects.csv" if len(pairs) < everything else ""
    axes[1].set_xlabel(
        axes[1].get_xlabel()
        + f"\n(grey: not below 0.05 after Holm,\nor fewer than {LEAST_SEEDS} seeds){rest}"
    )
    return figure


@styled
def figure11(data: pd.DataFrame) -> Figure:
    """What SFT and RL add, per true number of steps."""
    if data.empty:
        return not_run("Gains per difficulty", "needs known steps and two arms that differ in one stage")
    figure, axis = plt.subplots(figsize=(TWO_COLUMNS, 2.8))
    axis.axhline(0, color=GREY, lw=0.8)
    stages, ends = list(dict.fromkeys(data["stage"])), []
    for place, stage in enumerate(stages):
        line = data[data["stage"] == stage].sort_values("steps")
        arm = line["a"].iloc[0]
        axis.plot(line["steps"] + 0.1 * place, line["accuracy"], color=look(arm)[0], lw=1)
        points(axis, line["steps"] + 0.1 * place, line, arm)
        ends.append((float(line["accuracy"].iloc[-1]), stage, look(arm)[0]))
    axis.set(xlabel="true number of reasoning steps", ylabel="gain in points, 95% interval")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="x", visible=False)
    label_ends(axis, ends)
    if not any(stage.startswith("RL") and "from SFT" in stage for stage in stages):
        remark(axis, "RL after SFT on the same start: not run", right=True)
    return figure


@styled
def figure12(data: pd.DataFrame) -> Figure:
    """pass@k before (dashed) and after (solid) RL, general benchmarks."""
    if data.empty:
        return not_run("pass@k around RL", "no arm of this run differs from another in RL alone")
    stages = list(dict.fromkeys(data["stage"]))
    width = ONE_COLUMN if len(stages) == 1 else TWO_COLUMNS
    figure, axes = plt.subplots(1, len(stages), figsize=(width, 2.4), sharey=True, squeeze=False)
    most, labels = data["seeds"].max(), []
    for axis, stage in zip(axes[0], stages, strict=True):
        part, ends = data[data["stage"] == stage], []
        for place, (when, style) in enumerate((("before", "--"), ("after", "-"))):
            line = part[part["when"] == when].sort_values("k")
            arm, x = line["arm"].iloc[0], line["k"] * (1 + 0.03 * place)
            axis.plot(x, line["accuracy"], ls=style, lw=1, color=look(arm)[0])
            points(axis, x, line, arm)
            ends.append((float(line["accuracy"].iloc[-1]), f"{when} RL", look(arm)[0]))
        seeds = part["seeds"].iloc[0]
        fewer = f"\n({seeds} of {most} seeds)" if seeds < most else ""
        axis.set(title=stage.replace(", ", ",\n") + fewer, xlabel="k")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(part["k"].unique()), [str(k) for k in sorted(part["k"].unique())])
        axis.xaxis.set_minor_formatter(NullFormatter())
        labels.append(ends)
    axes[0][0].set_ylabel("pass@k in %, 95% interval")
    from_zero(axes[0][0])
    for axis, ends in zip(axes[0], labels, strict=True):  # after the shared axis has its final range
        label_ends(axis, ends)
    return figure


@styled
def figure13(data: pd.DataFrame) -> Figure:
    """General average against the cost of training: tokens, and hours of cores where the steps recorded them.

    Arms with fewer training seeds than others have an asterisk.
    """
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.6), sharey=True)
    most = data["seeds"].max()
    data, more = main_arms(data, also=[arm for arm in ARMS if ARMS[arm].matched])  # at the split's cost
    fewer = data[(data["seeds"] < most) & (data["arm"] != "base")]
    stars = " or ".join(map(str, sorted(set(fewer["seeds"]))))
    more += f"\n* {stars} of {most} seeds" if stars else ""
    known = data["core_hours"].notna().all()
    tokens, hours = (data["sft_tokens"] + data["rl_tokens"]) / 1e3, data["core_hours" if known else "hours"]
    sides = (
        (axes[0], tokens, "thousand tokens: SFT's with loss, RL's sampled"),
        (axes[1], hours, "core-hours of training" if known else "hours of training"),
    )
    for axis, x, label in sides:
        for arm, line in data.groupby("arm", sort=False):
            points(axis, x[line.index], line, arm)
        axis.set(xlabel=label + more, xlim=(-0.08 * max(x.max(), 1e-9), 1.12 * max(x.max(), 1e-9)))
    axes[0].set_ylabel("general average in %, 95% interval")
    axes[0].set_ylim(top=1.25 * data["high"].max())  # room for the names
    from_zero(axes[0])
    for axis, x, _ in sides:
        label_tops(axis, x, data, starred=set(fewer["arm"]))
    return figure


@styled
def figure14(data: pd.DataFrame) -> Figure:
    """DeReason minus each other trained arm, per true number of steps: a panel per arm, above 0 where the split is ahead."""
    if data.empty:
        return not_run("The split by steps", "needs dereason, another trained arm and known steps")
    most = data["seeds"].max()
    data, more = main_arms(data)
    arms = list(dict.fromkeys(data["arm"]))
    rows = 1 + (len(arms) > MOST_ARMS // 2)
    columns = -(-len(arms) // rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=(TWO_COLUMNS, 0.6 + 1.5 * rows), sharey=True, squeeze=False
    )
    for place, (axis, arm) in enumerate(zip(axes.flat, arms, strict=False)):
        line = data[data["arm"] == arm].sort_values("steps")
        axis.axhline(0, color=GREY, lw=0.8)
        axis.plot(line["steps"], line["difference"], color=look(arm)[0], lw=1)
        points(axis, line["steps"], line.rename(columns={"difference": "accuracy"}), arm)
        seeds = line["seeds"].iloc[0]
        axis.set_title(f"minus {short(arm)}" + (f"\n({seeds} of {most} seeds)" if seeds < most else ""))
        if place + columns >= len(arms):  # nothing below it
            axis.set_xlabel("true number of steps")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(axis="x", visible=False)
    for axis in axes.flat[len(arms) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("DeReason minus the arm,\npoints, 95% interval")
    axes[-1, 0].set_xlabel(axes[-1, 0].get_xlabel() + more)
    return figure
