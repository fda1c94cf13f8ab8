"""The roofline figure from results/bench's CSV files alone: operations per byte against rate."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dereason_utils import disk
from dereason_utils.plotting import GREY, STYLE, TWO_COLUMNS, label_ends, remark

MARKERS = {"01_rating": "s", "03_sft": "^", "rollout": "o", "update": "v", "05_eval": "D"}
NAMES = {"01_rating": "01 rating", "03_sft": "03 SFT", "rollout": "04 rollout", "update": "04 update",
         "05_eval": "05 evaluation"}  # fmt: skip
COLOURS = {"ours": "#0173b2", "trl_bfloat16": "#d55e00", "trl_float32": "#949494"}
LABELS = {
    "ours": "ours (bfloat16)",
    "trl_bfloat16": "plain TRL, bfloat16",
    "trl_float32": "plain TRL, float32",
}


def points(table: pd.DataFrame) -> pd.DataFrame:
    """Medians per task and variant: columns task, variant, intensity (operations a byte), rate (operations a second).

    An update is taken from the step in which no group was skipped.
    """
    table = table[table["bytes"].gt(0) & table["operations"].gt(0)].copy()
    skipping = (table["measure"] == "update") & (table["variant"] == "ours")
    table = table[~skipping & ~((table["measure"] == "rollout") & (table["variant"] == "ours_all_groups"))]
    table["variant"] = table["variant"].replace("ours_all_groups", "ours")
    table["task"] = table["task"].where(table["task"] != "04_grpo", table["measure"])
    table["intensity"] = table["operations"] / table["bytes"]
    table["rate"] = table["operations"] / table["seconds"]
    return table.groupby(["task", "variant"], sort=False)[["intensity", "rate"]].median().reset_index()


def draw(folder: Path) -> list[str]:
    """Write roofline.png and roofline.pdf into the folder that has measurements.csv and machine.csv; their names."""
    table = pd.read_csv(folder / "measurements.csv")
    facts = pd.read_csv(folder / "machine.csv", index_col="name")["value"]
    found = points(table)
    tops = {
        dtype: table.loc[table["measure"] == f"products_{dtype}", "per_second"].median()
        for dtype in ("bfloat16", "float32")
    }
    bandwidth = table.loc[table["measure"] == "copy", "per_second"].median()
    with plt.style.context(STYLE):
        figure, axis = plt.subplots(figsize=(TWO_COLUMNS, 3.4))
        left = min(found["intensity"].min(), min(tops.values()) / bandwidth) / 4
        right = max(found["intensity"].max(), max(tops.values()) / bandwidth) * 3
        x = np.geomspace(left, right, 200)
        ends = []
        for dtype, top in tops.items():
            axis.plot(
                x,
                np.minimum(x * bandwidth, top) / 1e9,
                color=GREY,
                lw=1,
                ls="-" if dtype == "bfloat16" else "--",
            )
            ends.append((top / 1e9, f"{dtype} products\n{top / 1e9:.0f} GFLOP/s", GREY))
        for row in found.itertuples():
            axis.plot(
                row.intensity,
                row.rate / 1e9,
                MARKERS[row.task],
                color=COLOURS[row.variant],
                ms=6,
                mec="white",
            )
        axis.set(xscale="log", yscale="log", xlim=(left, right), xlabel="operations per byte that the task needs at least",
                 ylabel="GFLOP/s", title=f"Roofline on {facts['cores']} cores: {facts['cpu']}")  # fmt: skip
        remark(axis, f"slope: copying memory,\n{bandwidth / 1e9:.0f} GB/s")
        shapes = [
            plt.Line2D([], [], ls="", marker=MARKERS[t], color=GREY, label=NAMES[t])
            for t in found["task"].unique()
        ]
        colours = [
            plt.Line2D([], [], lw=3, color=COLOURS[v], label=LABELS[v])
            for v in COLOURS
            if v in set(found["variant"])
        ]
        figure.legend(
            handles=[*colours, *shapes], loc="outside lower center", fontsize=6.5, frameon=False, ncols=4
        )
        label_ends(axis, ends)
        for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with disk.atomic_path(folder / f"roofline.{ending}") as path:
                figure.savefig(path, format=ending, metadata=metadata)
        plt.close(figure)
    return ["roofline.png", "roofline.pdf"]
