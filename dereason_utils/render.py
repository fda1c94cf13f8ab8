"""Writes the tables of 06_figures as CSV, Markdown, LaTeX and HTML, and the ledger of claims; `readme` shows them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from dereason_utils import disk, manifest, paths, processor, results
from dereason_utils.claims import CONTRADICTED, LEAST_SEEDS, SUPPORTED, VERDICTS
from dereason_utils.errors import InputError
from dereason_utils.tables import AVERAGE, CORPORA, REPORTED

RESAMPLED = "problem families resampled as wholes, a benchmark's only family question by question"


def counted(seeds: int) -> str:
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def order_line(table: pd.DataFrame, column: str, who: str) -> str:
    """One sentence with the arms from best to worst by a column of `main_table`; of ours, which have fewer seeds than others."""
    known = table.dropna(subset=[column]).sort_values(column, ascending=False, kind="stable")
    fewer = (known["seeds"] < known["seeds"].max()) & (column == AVERAGE)
    shown = [f"{x:.1f}, {counted(seeds)}" if few else f"{x:.1f}"
             for x, seeds, few in zip(known[column], known["seeds"], fewer, strict=True)]  # fmt: skip
    return f"Order, {who}: " + " > ".join(map("{} ({})".format, known["row"], shown)) + "."


def notes(table: pd.DataFrame, name: str) -> list[str]:
    """What a reader must know to read `main_table`, in whole sentences."""
    first = table.iloc[0]
    seeds = f", {first['seeds']} training seeds" if first["seeds"] > 1 else ""
    lines = [
        (
            f"Ours: accuracy in percent, pass@1 averaged over {first['samples']} samples of "
            f"{first['questions']} questions{seeds}. Brackets: 95% interval over {first['covers']}, {RESAMPLED}. "
            f"{AVERAGE} = plain mean of the benchmarks."
        ),
        *_fewer_seeds(table),
        "No answer: share of completions without a readable answer, averaged likewise; they count as wrong.",
        (
            f"Paper: {_comparable(table, name)} Its RL-only row on WebInstruct-verified equals the published "
            "General-Reasoner-4B in every column."
        ),
        order_line(table, AVERAGE, "ours"),
    ]
    best = "avg" if name == "table1" else "math500"
    for corpus, title in CORPORA.items():
        what = "average" if name == "table1" else "MATH-500"
        lines.append(order_line(table, f"paper {corpus} {best}", f"paper, {title}, {what}"))
    return lines


def _fewer_seeds(table: pd.DataFrame) -> list[str]:
    """Which arms have fewer training seeds than the first row says, and what their brackets cover."""
    fewer = table[table["seeds"] < table["seeds"].iloc[0]]
    return [
        f"Only {seeds} training seed{'s' * (seeds > 1)}, brackets over {covers}: {'; '.join(part['row'])}."
        for (seeds, covers), part in fewer.groupby(["seeds", "covers"], sort=False)
    ]


def _comparable(table: pd.DataFrame, name: str) -> str:
    """Whether our columns are the paper's benchmarks, all of them and no others."""
    ours = {column for column in table.columns if f"{column} low" in table.columns} - {AVERAGE}
    if ours == set(REPORTED[name]) - {"avg"}:
        return (
            "Qwen3-4B-Base on the same benchmarks (arXiv 2603.11193v1); it gives neither its prompts nor its decoding, "
            "and with those, base scores move by several points."
        )
    return (
        "another model (Qwen3-4B-Base) on other benchmarks (arXiv 2603.11193v1): compare the order of the arms, not the "
        "values."
    )


def display(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """`main_table` as a reader sees it: text cells under two header rows (whose numbers, which benchmark)."""
    ours = "Ours (accuracy in %)"
    shown = {("", "Arm"): table["row"]}
    for benchmark in [column for column in table.columns if f"{column} low" in table.columns]:
        shown[ours, REPORTED[name].get(benchmark, benchmark)] = [
            f"{value:.1f} [{low:.1f}, {high:.1f}]"
            for value, low, high in zip(
                table[benchmark], table[f"{benchmark} low"], table[f"{benchmark} high"], strict=True
            )
        ]
    shown[ours, "no answer"] = table["parse failure"].map("{:.1f}".format)
    for corpus, title in CORPORA.items():
        for column, column_title in REPORTED[name].items():
            shown[f"Paper, {title}", column_title] = table[f"paper {corpus} {column}"].map(_number_or_dash)
    return pd.DataFrame(shown)


def write(
    folder: Path, name: str, table: pd.DataFrame, title: str, remarks: Iterable[str], shown: pd.DataFrame
) -> list[str]:
    """Write <name>.csv (`table`) and .md, .tex, .html (`shown`, title, remarks); returns the file names."""
    remarks = list(remarks)
    disk.write_table(folder / f"{name}.csv", table)
    disk.write_text(folder / f"{name}.md", to_markdown(shown, title, remarks))
    disk.write_text(folder / f"{name}.tex", to_latex(shown, title, remarks, name))
    disk.write_text(folder / f"{name}.html", to_html(shown, title, remarks))
    return [f"{name}.{ending}" for ending in ("csv", "md", "tex", "html")]


def plain_display(table: pd.DataFrame) -> pd.DataFrame:
    """A readable copy of the smaller tables: arm names in words, value and interval in one cell, of the sizes the seeds."""
    if table.empty:  # no pair of arms was run, or no arm with RL
        return table
    table = table.copy()
    for column in {"arm", "a", "b"} & set(table.columns):
        table[column] = table[column].map(results.label)
    value = next(name for name in ("accuracy", "difference", "slope", "value") if name in table.columns)
    digits = 4 if value == "slope" else 1
    table[value] = [
        f"{v:z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"
        for v, low, high in zip(table[value], table["low"], table["high"], strict=True)
    ]
    for column in {"p", "p_holm", "parse_failure", "first_quarter", "last_quarter"} & set(table.columns):
        shown = "{:.1f}" if column == "parse_failure" else "{:.3f}"
        table[column] = [shown.format(number) if pd.notna(number) else "–" for number in table[column]]
    table = table.drop(columns=["low", "high", "groups", "samples", "covers"], errors="ignore")
    return table.rename(columns=lambda name: name.replace("_", " "))


def about_pairs(pairs: pd.DataFrame) -> list[str]:
    """What a reader must know of the intervals and p-values of `comparisons.differences`."""
    lines = [
        f"Points, a minus b; brackets: 95% interval over training seeds, questions and samples, {RESAMPLED}."
    ]
    if (pairs["seeds"] == 1).any():
        lines.append(
            "With one seed the interval covers questions and samples alone, and a second training may lie outside it."
        )
    return [
        *lines,
        f"p holm: corrected over the pairs of a scope that have at least {LEAST_SEEDS} training seeds; the others have none.",
    ]


def named(table: pd.DataFrame, decimals: int = 2) -> pd.DataFrame:
    """A table of plain numbers with so many decimals, and with the arms' names in words."""
    shown = table.assign(arm=table["arm"].map(results.label))
    for column in table.select_dtypes("float"):
        shown[column] = table[column].map(f"{{:z.{decimals}f}}".format)
    return shown.rename(columns=lambda name: name.replace("_", " "))


def side_by_side_display(table: pd.DataFrame) -> pd.DataFrame:
    """A readable copy of `comparisons.side_by_side`."""
    shown = table[["a", "b", "scope", "table", "corpus"]].copy()
    shown["a"], shown["b"] = table["a"].map(results.label), table["b"].map(results.label)
    shown["paper"] = table["reported"].map("{:+z.1f}".format)
    shown["ours"] = with_interval(table, "difference", "low", "high")
    shown["ours minus paper's"] = with_interval(table, "apart", "apart_low", "apart_high")
    return shown.assign(**{"compatible?": table["compatible"]})


def with_interval(table: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    """A cell for each row: a signed value and its interval, with one decimal."""
    columns = zip(table[value], table[low], table[high], strict=True)
    return [f"{middle:+z.1f} [{bottom:+z.1f}, {top:+z.1f}]" for middle, bottom, top in columns]


def scorings_display(table: pd.DataFrame) -> pd.DataFrame:
    """A readable copy of `tables.scorings`."""
    titles = {column: title for columns in REPORTED.values() for column, title in columns.items()}
    return named(table.assign(benchmark=table["benchmark"].replace(titles)), decimals=1)


def claims_display(ledger: pd.DataFrame) -> pd.DataFrame:
    """A readable copy of `verdicts.assess`'s ledger: the verdict with its reason, no p-values of their own."""
    shown = ledger.assign(verdict=ledger["verdict"] + ": " + ledger["why"])
    names = {"id": "", "where": "in the paper", "paper": "paper's number", "ours": "ours [95% interval]"}
    return shown[["id", "claim", "where", "paper", "ours", "seeds", "verdict", "figure"]].rename(
        columns=names
    )


def claims_remarks(ledger: pd.DataFrame, profile: str) -> list[str]:
    """What a reader must know to read the ledger."""
    return [
        f"The verdicts are evidence at the scale of profile {profile} alone: its policy, corpus and benchmarks.",
        (
            "Rules: dereason_utils/claims.py (RULES); REPORT.md says whether they were registered before the runs. Every test of a "
            "claim is written so that the claim predicts a positive number."
        ),
        f"Command: {ledger['command'].iloc[0]}.",
    ]


def claims_html(ledger: pd.DataFrame, profile: str) -> str:
    """The ledger as a page, its figures linked."""
    shown = claims_display(ledger)
    body = to_html(shown, f"Ledger of claims, profile {profile}", claims_remarks(ledger, profile))
    body = body.replace("white-space:nowrap", "white-space:normal;vertical-align:top")
    for figure in sorted(set(ledger["figure"]) - {"–"}):
        ending = "html" if figure.startswith("table") else "png"
        body = body.replace(f"<td>{figure}</td>", f'<td><a href="{figure}.{ending}">{figure}</a></td>')
    return body


def claims_markdown(ledger: pd.DataFrame, figures: str, short: bool = False) -> str:
    """The ledger as a Markdown table; `figures`: what links to figures begin with; short: without what the paper says."""
    shown = claims_display(ledger)
    if short:
        shown = shown[["", "verdict", "ours [95% interval]", "seeds", "figure"]]
    shown["figure"] = [
        "–"
        if name == "–"
        else f"[{name}]({figures}{name}.{'md' if name.startswith('table') else 'png'})"
        for name in shown["figure"]
    ]  # fmt: skip
    return shown.to_markdown(index=False, disable_numparse=True)


def write_claims(folder: Path, ledger: pd.DataFrame, parts: pd.DataFrame, profile: str) -> list[str]:
    """Write claims.csv, .md and .html and claim_parts.csv; returns the file names."""
    remarks = "\n".join(f"- {line}" for line in claims_remarks(ledger, profile))
    title = f"**Ledger of claims, profile {profile}**"
    disk.write_table(folder / "claims.csv", ledger)
    disk.write_table(folder / "claim_parts.csv", parts)
    disk.write_text(folder / "claims.md", f"{title}\n\n{claims_markdown(ledger, '')}\n\n{remarks}\n")
    disk.write_text(folder / "claims.html", claims_html(ledger, profile))
    return ["claims.csv", "claim_parts.csv", "claims.md", "claims.html"]


def seeds_line(table1: pd.DataFrame, registered: int) -> str:
    """How many training seeds how many arms have; with fewer than registered for all, that the verdicts are interim."""
    counts = [
        f"{seeds} for {len(arms)} arm{'s' * (len(arms) > 1)}"
        for seeds, arms in table1.groupby("seeds", sort=False)
    ]
    line = f"Training seeds, of {registered} in the profile: {', '.join(counts)}."
    done = table1["seeds"].max() >= registered
    return line if done else f"{line} The study is under way, and its verdicts are interim."


def verdict_line(ledger: pd.DataFrame, profile: str) -> str:
    """How many claims got which verdict, in a sentence; those that were decided are named."""
    found = []
    for verdict in VERDICTS:
        ids = ledger.loc[ledger["verdict"] == verdict, "id"]
        named = f" ({', '.join(ids)})" if len(ids) and verdict in (SUPPORTED, CONTRADICTED) else ""
        found.append(f"{len(ids) or 'none'} {verdict}{named}")
    return f"Of the paper's {len(ledger)} claims, at the scale of profile `{profile}`: {', '.join(found)}."


def to_markdown(shown: pd.DataFrame, title: str, remarks: list[str]) -> str:
    flat = shown.copy()
    if shown.columns.nlevels > 1:
        flat.columns = [f"{high}: {low}" if high.startswith("Paper") else low for high, low in shown.columns]
    if shown.empty:
        return f"**{title}**\n\nNo rows.\n"
    numeric = ["left" if i == 0 else "right" for i in range(flat.shape[1])]
    body = flat.to_markdown(index=False, colalign=numeric, disable_numparse=True)
    return f"**{title}**\n\n{body}\n\n" + "\n".join(f"- {line}" for line in remarks) + "\n"


def to_html(shown: pd.DataFrame, title: str, remarks: list[str]) -> str:
    """A self-contained page."""
    style = (
        "body{font:14px/1.4 system-ui,sans-serif;margin:1.5em;color:#222;background:#fff}"
        "table{border-collapse:collapse}th,td{padding:.25em .7em;text-align:right;white-space:nowrap}"
        "td:first-child,th:first-child{text-align:left}h1{font-size:1.2em}"
        "thead tr:last-child th{border-bottom:1px solid #222}thead th[colspan]{text-align:center}"
        "tbody tr+tr td{border-top:1px solid #ddd}.wide{overflow-x:auto}"
    )
    body = shown.to_html(index=False, border=0, justify="right")
    lines = "".join(f"<li>{_html(line)}</li>" for line in remarks)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_html(title)}</title>'
        f"<style>{style}</style><h1>{_html(title)}</h1>"
        f'<div class="wide">{body}</div><ul>{lines}</ul></html>\n'
    )


def to_latex(shown: pd.DataFrame, title: str, remarks: list[str], name: str) -> str:
    """A floating table for \\usepackage{booktabs,graphicx}."""
    body = shown.to_latex(
        index=False, escape=True, column_format="l" + "r" * (shown.shape[1] - 1), multicolumn_format="c"
    )
    text = " ".join(remarks)
    for sign in ("\\", "%", "&", "_", "#"):
        text = text.replace(sign, "\\textbackslash{}" if sign == "\\" else f"\\{sign}")
    text = text.replace(">", "$>$")
    return (
        f"\\begin{{table*}}\n\\centering\n\\resizebox{{\\textwidth}}{{!}}{{%\n{body}}}\n"
        f"\\caption{{{title}. {text}}}\n\\label{{tab:{name}}}\n\\end{{table*}}\n"
    )


def read_csv(path: Path) -> pd.DataFrame:
    """A table of 06_figures. Raises InputError where that has not been run."""
    if not path.is_file():
        raise InputError(f"{path} is missing: run 06_figures for this profile first.")
    return pd.read_csv(path)


def cost_line(results_folder: Path) -> str:
    """What the run cost and on which processors, from the manifests of all its steps."""
    steps = [manifest.load(path) for path in sorted(results_folder.rglob(paths.MANIFEST))]
    if not steps:
        return "What the run cost is not known: it left no manifests."
    minutes = sum(step.wall_s for step in steps) / 60
    memory = max(step.peak_memory_mb for step in steps) / 1000
    return (
        f"{len(steps)} steps, {minutes:.0f} minutes in the notebooks, at most {memory:.1f} GB of memory "
        "(from the steps' manifests)." + _processors(steps)
    )


def _processors(steps: list[manifest.Manifest]) -> str:
    """Which training seeds were made on which processor, where any step recorded it: its products decide speed and rounding."""
    seeds: dict[str | None, set[int]] = {}
    for step in steps:
        if step.stage in ("03_sft", "04_grpo"):
            seeds.setdefault(step.processor, set()).add(step.seed)
    if not set(seeds) - {None}:
        return ""
    own = sorted(
        (min(numbers), listed(sorted(numbers)), name or "not recorded") for name, numbers in seeds.items()
    )
    named = "; ".join(f"{numbers} {name}" for _, numbers, name in own)
    float32 = any(name and name.endswith(processor.PRODUCTS["avx2"]) for name in seeds)
    return f" Training seeds by processor: {named}." + " AVX2 alone computes in float32." * float32


def listed(numbers: Sequence[int]) -> str:
    """Numbers in a row: 0 to 19; others with commas."""
    in_a_row = len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} to {numbers[-1]}" if in_a_row else ", ".join(map(str, numbers))


def _number_or_dash(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.1f}"


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
