"""`make bench` at its smallest size: every task and variant runs, and what is written can be drawn again."""

import subprocess
import sys

import pandas as pd

from dereason_utils import paths

BENCH = paths.REPO / "tests" / "bench" / "bench.py"
MEASURES = {"rating", "sft", "rollout", "update", "step", "evaluation", "checker"}


def test_a_quick_benchmark_measures_every_variant_and_draws_from_its_files(tmp_path):
    done = subprocess.run([sys.executable, str(BENCH), "--quick", "--out", str(tmp_path)], capture_output=True, text=True,
                          check=False, env=environment())  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = pd.read_csv(tmp_path / "measurements.csv")
    assert set(table.loc[table["variant"] != "machine", "measure"]) == MEASURES
    assert (table[["seconds", "per_second", "peak_mb"]] > 0).all(axis=None)
    sampled = table[table["measure"] == "rollout"]
    assert set(sampled["variant"]) == {"ours", "ours_all_groups", "trl_float32", "trl_bfloat16"}
    ratios = pd.read_csv(tmp_path / "summary.csv").set_index(["measure", "variant"])["ours_is"]
    assert ratios["step", "trl_float32"] > 0 and ratios["checker", "math_verify"] > 0
    drawn = (tmp_path / "roofline.png").read_bytes()
    subprocess.run(
        [sys.executable, str(BENCH), "--draw", "--out", str(tmp_path)], check=True, env=environment()
    )
    assert (tmp_path / "roofline.png").read_bytes() == drawn and len(drawn) > 10_000


def environment():
    import os

    return {**os.environ, "PYTHONPATH": str(paths.REPO)}
