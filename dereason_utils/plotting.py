"""What the figures share: style, colours, labels at the end of lines, and writing them to disk."""

import functools
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from scipy import stats as distributions

from dereason_utils import disk
from dereason_utils.profiles import Profile
from dereason_utils.render import listed
from dereason_utils.results import LABELS, ONE_SCORE, Results, redraw

STYLE = Path(__file__).with_name("dereason.mplstyle")
ONE_COLUMN, TWO_COLUMNS = 3.3, 6.8  # inches
PALETTE = tuple(seaborn.color_palette("colorblind").as_hex())  # as in the style file
GREY, INK = "#6b6b6b", "#222222"
# Each arm keeps its colour and marker in every figure; other arms take what is left.
_LOOKS = {
    "base": (GREY, "o"),
    "rl_only": ("#d55e00", "v"),
    "sft_only": ("#029e73", "s"),
    "sft_then_hard_sft": ("#ca9161", "P"),
    "random_split": ("#b35aa3", "D"),
    "dereason": ("#0173b2", "^"),
    "reversed": ("#56b4e9", "X"),
    "sft_all_then_rl_all": ("#de8f05", "p"),
}
_MAIN = tuple(_LOOKS)
_LOOKS["sft_easy"] = ("#332288", "<")  # dereason before its RL
_LOOKS |= {"sft_only_updates": ("#5f8a1f", ">"), "sft_only_tokens": ("#01553e", "h")}  # greens, as SFT only
MOST_ARMS = 8  # more colours cannot be told apart: then _MAIN is drawn, and the CSV file has all
BAND_SEEDS = 3  # from so many seeds on a curve is the mean over them, with its interval
_SHORT = {
    "base": "Base",
    "rl_only": "RL only",
    "sft_only": "SFT only",
    "sft_then_hard_sft": "SFT, hard SFT",
    "random_split": "Random split",
    "dereason": "DeReason",
    "sft_easy": "SFT easy",
    "easy_rl_then_hard_rl": "RL easy, RL hard",
    "reversed": "Reversed",
    "sft_all_then_rl_all": "SFT all, RL all",
    "sft_all_then_hard_rl": "SFT all, RL hard",
    "subject_matched_random": "Random, hard's subjects",
    "passrate_split": "Split by pass rate",
    "threshold_2": "Threshold 2",
    "threshold_4": "Threshold 4",
    "filtered_teacher": "Right answers only",
    "sft_only_updates": "SFT only, as many updates",
    "sft_only_tokens": "SFT only, as many tokens",
}
_SHORT |= {arm: f"{'SFT, ' * arm.startswith('sft')}RL score {score}" for arm, score in ONE_SCORE.items()}
_SHORT |= {arm: label.replace("on 1 problem in", "1 in") for arm, label in LABELS.items() if "_1_in_" in arm}


@dataclass(frozen=True)
class Provenance:
    """The line under a figure. `command` redraws it; `commit` is that of the runs, not of the redrawing.

    runs: arms, by the training seeds that they have.
    """

    profile: str
    runs: Mapping[tuple[int, ...], Sequence[str]]
    commit: str
    command: str

    @classmethod
    def of(cls, read: Results, settings: Profile) -> "Provenance":
        runs: dict[tuple[int, ...], list[str]] = {}
        for arm in read.arms:
            runs.setdefault(read.seeds_of(arm), []).append(arm)
        return cls(read.profile, runs, read.commit, redraw(settings))

    def line(self, data_hash: str) -> str:
        runs = "; ".join(
            f"{', '.join(arms)}, {'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds)}"
            for seeds, arms in self.runs.items()
        )
        return (
            f"Run: profile {self.profile}, arms {runs}. "
            f"Redraw: {self.command}. Commit of the runs: {self.commit}. Data: sha256 {data_hash[:12]}."
        )


def save(figure: Figure, folder: Path, name: str, data: pd.DataFrame, provenance: Provenance) -> list[str]:
    """Write <name>.csv, <name>.png (200 dpi) and <name>.pdf; returns the file names. Closes the figure."""
    disk.write_table(folder / f"{name}.csv", data)
    digest = disk.sha256_file(folder / f"{name}.csv")
    with plt.style.context(STYLE):
        _write_below(figure, provenance.line(digest))
        # Without dates, so that the same data give the same bytes.
        for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with disk.atomic_path(folder / f"{name}.{ending}") as path:
                figure.savefig(path, format=ending, metadata=metadata)
    plt.close(figure)
    return [f"{name}.{ending}" for ending in ("csv", "png", "pdf")]


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorator: draw in the project's style, whatever style the caller has set."""

    @functools.wraps(draw)
    def styled(*arguments, **named) -> Figure:
        with plt.style.context(STYLE):
            return draw(*arguments, **named)

    return styled


def not_run(title: str, why: str) -> Figure:
    """A panel that says that there is nothing to show, so that the gap is not taken for an oversight."""
    figure, axis = plt.subplots(figsize=(ONE_COLUMN, 1.5))
    axis.text(
        0.5, 0.58, "not run", ha="center", va="center", fontsize=11, color=GREY, transform=axis.transAxes
    )
    axis.text(0.5, 0.3, why, ha="center", va="center", color=GREY, transform=axis.transAxes)
    axis.set(title=title, xticks=[], yticks=[])
    axis.spines[:].set(visible=True, linestyle=(0, (3, 3)), color="#aaaaaa")
    return figure


def main_arms(data: pd.DataFrame, also: Sequence[str] = ()) -> tuple[pd.DataFrame, str]:
    """The rows that a figure can show, and a second line for its axis label where it cannot show every arm.

    Of more than MOST_ARMS arms those with a look of their own are shown, and those in `also`; where there are none, the first.
    """
    arms = list(dict.fromkeys(data["arm"]))
    main = arms if len(arms) <= MOST_ARMS else [arm for arm in arms if arm in (*_MAIN, *also)]
    shown = main or arms[:MOST_ARMS]
    more = len(arms) - len(shown)
    return data[data["arm"].isin(shown)], f"\n({more} more arms in the CSV file)" if more else ""


def curve(axis: Axes, line: pd.DataFrame, values: Sequence[str], colour: str) -> bool:
    """One arm's values over steps; returns whether they are drawn as a mean.

    values: column names, the last one drawn strong and the others faint. From BAND_SEEDS seeds on the last one's mean over
    the seeds is drawn, with a band of its 95% interval (Student's t, steps apart).
    """
    if line["seed"].nunique() < BAND_SEEDS:
        for _, run in line.groupby("seed", sort=False):
            for name in values[:-1]:
                axis.plot(run["step"], run[name], color=colour, lw=0.5, alpha=0.5, marker=".", ms=2.5, mew=0)
            axis.plot(run["step"], run[values[-1]], color=colour)
        return False
    across = line.groupby("step")[values[-1]].agg(["mean", "sem", "count"])
    half = distributions.t.ppf(0.975, across["count"] - 1) * across["sem"]
    axis.plot(across.index, across["mean"], color=colour)
    axis.fill_between(
        across.index, across["mean"] - half, across["mean"] + half, color=colour, alpha=0.2, lw=0
    )
    return True


def from_zero(axis: Axes) -> None:
    """Zero at the bottom, with room for a marker that stands on it."""
    top = axis.get_ylim()[1]
    axis.set_ylim(-0.03 * top, top)


def points(axis: Axes, x, line: pd.DataFrame, arm: str) -> None:
    """Markers with their intervals, the markers above everything."""
    colour, marker = look(arm)
    errors = np.vstack([line["accuracy"] - line["low"], line["high"] - line["accuracy"]]).clip(min=0)
    drawn = axis.errorbar(
        x,
        line["accuracy"],
        yerr=errors,
        fmt=marker,
        color=colour,
        elinewidth=0.9,
        ms=4.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
    )
    drawn[0].set_zorder(4)


def label_arms(axis: Axes, part: pd.DataFrame, value: str, slope: str | None = None) -> None:
    """Name each arm at the end of its line; `slope` formats the slope per 10 steps and half its interval."""
    ends = []
    for arm, lines in part.groupby("arm", sort=False):
        last = lines.groupby("seed")[value].last() if "seed" in lines else lines[value].tail(1)
        text = short(arm)
        if slope and len(last) == 1 and lines["slope"].notna().all():
            middle, high = lines["slope"].iloc[0], lines["slope_high"].iloc[0]
            text += "\n" + slope.format(10 * middle, 10 * (high - middle)).replace("-", "−")
        ends.append((float(last.mean()), text, look(arm)[0]))
    label_ends(axis, ends)


def label_ends(axis: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write (y, text, colour) right of the axes at the height of y, moved apart where they would overlap."""
    if not ends:
        return
    axis.figure.draw_without_rendering()  # settles the layout, and with it the height that text takes
    height = axis.get_window_extent().height
    line = 7 * 1.25 * axis.figure.dpi / 72 / height
    ends = sorted(ends)
    places = [axis.transAxes.inverted().transform(axis.transData.transform((0, y)))[1] for y, *_ in ends]
    needs = [line * (1 + text.count("\n")) for _, text, _ in ends]
    for i in range(1, len(places)):  # push upwards, then back down from the top
        places[i] = max(places[i], places[i - 1] + (needs[i] + needs[i - 1]) / 2)
    places[-1] = min(places[-1], 1 - needs[-1] / 2)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - (needs[i] + needs[i + 1]) / 2)
    for place, (_, text, colour) in zip(places, ends, strict=True):
        axis.text(
            1.02,
            place,
            text,
            transform=axis.transAxes,
            va="center",
            fontsize=7,
            linespacing=1.15,
            color=colour,
        )


def label_tops(axis: Axes, x: pd.Series, data: pd.DataFrame, starred: Collection[str]) -> None:
    """Name each arm above its interval, so much higher as it takes to cover no marker and no other name.

    data: the columns arm, accuracy and high, a row per x; one without x (an old result may lack its tokens) has no name.
    starred: the arms whose name has an asterisk.
    """
    axis.figure.draw_without_rendering()  # settles the layout
    data = data.assign(x=x).dropna(subset="x").sort_values("high", kind="stable")
    point = axis.figure.dpi / 72
    markers = axis.transData.transform(data[["x", "accuracy"]])
    taken = [Bbox([middle - 3 * point, middle + 3 * point]) for middle in markers]
    for arm, place, high in zip(data["arm"], data["x"], data["high"], strict=True):
        name = axis.annotate(short(arm) + "*" * (arm in starred), (place, high), xytext=(0, 1), textcoords="offset points",
                             annotation_clip=False, ha="center", fontsize=6.5, color=look(arm)[0], zorder=3,
                             path_effects=[withStroke(linewidth=1.8, foreground="white")])  # fmt: skip
        while any(name.get_window_extent().overlaps(box) for box in taken):
            name.xyann = (0, name.xyann[1] + 1)
        taken.append(name.get_window_extent())


def remark(axis: Axes, text: str, right: bool = False) -> None:
    """A small grey note in an upper corner of the axes."""
    axis.text(
        0.98 if right else 0.03,
        0.97,
        text,
        transform=axis.transAxes,
        ha="right" if right else "left",
        va="top",
        fontsize=6.5,
        color=GREY,
    )


def _write_below(figure: Figure, text: str) -> None:
    """The provenance in small print; the picture moves up to make room."""
    width, height = figure.get_size_inches()
    letter = 5 * 0.63 / 72  # inches: 5 points high, a digit 0.63 as wide
    lines = textwrap.wrap(text, int(width / letter), break_on_hyphens=False)
    room = (len(lines) * 5 * 1.3 + 4) / 72
    figure.set_size_inches(width, height + room)
    share = room / (height + room)
    figure.get_layout_engine().set(rect=(0, share, 1, 1 - share))
    figure.text(0.01, 0.01, "\n".join(lines), fontsize=5, color=GREY, va="bottom", linespacing=1.3)


def look(arm: str) -> tuple[str, str]:
    """(colour, marker) of an arm."""
    if arm in _LOOKS:
        return _LOOKS[arm]
    if arm in ONE_SCORE:
        return shade(ONE_SCORE[arm]), "o"
    if "_1_in_" in arm:  # the fewer problems, the lighter
        whole, part = arm.split("_1_in_")
        colour, marker = _LOOKS[f"{whole}_only"]
        return to_hex(seaborn.blend_palette([colour, "#dddddd"], 8)[int(part).bit_length() - 1]), marker
    place = sum(arm.encode())
    return PALETTE[place % len(PALETTE)], "oXp*hd<>"[place % 8]


def short(arm: str) -> str:
    """The arm's name where room is scarce."""
    return _SHORT.get(arm, arm.replace("_", " "))


def shade(score: int) -> str:
    """Colour of a score 1-5: light to dark, so that the order reads without colours too."""
    return to_hex(seaborn.color_palette("viridis_r", 6)[int(score)])


def ink(colour: str) -> str:
    """Dark or white text, whichever reads better on the colour."""
    red, green, blue = to_rgb(colour)
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"
