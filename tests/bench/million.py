"""Memory and time of 02_split and 06_figures on up to a million problems: `python million.py` writes million.csv.

The scores are synthetic, the texts as long as mini_stem's, and the teacher's answers come ready made: a model's would take
days, whatever we do. All else is the notebooks' own cells, run one after the other in a process of their own per size.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from worker import peak_mb

from dereason_utils import disk, paths

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUESTION, RESPONSE = (
    "Ann has 3 pens and buys 4 more of them every day. " * 3,
    "3 + 4 = 7. " * 8 + "\\boxed{7}",
)


def write_scores(size: int) -> None:
    """01_score's files of so many problems, and everything else that 06_figures reads, under $DEREASON_RESULTS."""
    sys.path.insert(0, str(paths.REPO / "tests"))
    import synthetic_results as synthetic

    from dereason_utils import in_parts, manifest, mini_stem, models, profiles

    models.locate(profiles.load("cpu").model)  # 02 counts its tokens
    subjects = sorted({name.split(".")[0] for name in mini_stem.FAMILIES})

    def problems():
        for start in range(0, size, in_parts.ROWS):
            number = np.arange(start, min(size, start + in_parts.ROWS))
            yield pd.DataFrame({
                "id": [f"p{i}" for i in number], "question": [f"{QUESTION}({i})" for i in number], "answer": "7",
                "answer_type": "number", "subject": [subjects[i % len(subjects)] for i in number], "family": "f",
                "steps": 1 + number % 8, "split": np.where(number % 1000 == 999, "validation", "train"),
            })  # fmt: skip

    synthetic.write(train=size)
    step = manifest.begin("01_score", "cpu", parameters={})
    scores = synthetic.scores(size).assign(pass_rate=np.nan, analysis="It takes a few steps.", attempts=1)
    in_parts.write(step.folder / "problems.parquet", problems())
    train = pd.concat(
        rows.loc[rows["split"] == "train", "id"] for rows in in_parts.read(step.folder / "problems.parquet")
    )
    disk.write_table(step.folder / "scores.parquet", scores[scores["id"].isin(train)])
    manifest.finish(step, outputs=["problems.parquet", "scores.parquet"])


def run(stage: str) -> None:
    """The notebook's code cells, with the `cpu` profile."""
    import matplotlib

    from dereason_utils import teacher

    matplotlib.use("agg")
    ready = {"response": RESPONSE, "response_correct": True}
    teacher.open_teacher = lambda *arguments: lambda rows, name: (rows.assign(**ready), None)
    cells = json.loads(paths.notebook_path(stage).read_text())["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(code)
        file.flush()
        runpy.run_path(file.name)


def child(stage: str, size: int) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    began = time.perf_counter()
    run(stage)
    row = {
        "stage": stage,
        "problems": size,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_mb": peak_mb(),
    }
    print(json.dumps(row), file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=paths.committed() / "bench")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--write", type=int, help="for its own child processes")
    parser.add_argument("--child", nargs=2, help="for its own child processes")
    options = parser.parse_args()
    if options.write:
        write_scores(options.write)
    elif options.child:
        child(options.child[0], int(options.child[1]))
    else:
        rows = []
        for size in options.sizes:
            with tempfile.TemporaryDirectory(prefix="dereason-million-") as folder:
                own = os.environ | {"DEREASON_RESULTS": folder, "PYTHONPATH": str(paths.REPO)}
                line = [sys.executable, __file__]
                subprocess.run([*line, "--write", str(size)], check=True, env=own)
                for stage in ("06_figures", "02_split"):  # 02 would replace what 06 reads
                    done = subprocess.run([*line, "--child", stage, str(size)], env=own, capture_output=True,
                                          text=True, check=False)  # fmt: skip
                    if done.returncode:
                        raise SystemExit(done.stderr[-3000:])
                    rows.append(json.loads(done.stdout))
                    print(rows[-1], flush=True)
        disk.write_table(options.out / "million.csv", pd.DataFrame(rows))


if __name__ == "__main__":
    main()
