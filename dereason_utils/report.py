"""REPORT.md and a page with sortable tables, from a profile's tables alone; every number is injected.

    python -m dereason_utils.report REPORT.md --profile cpu [--profile nano] [--check]

06_figures writes the same text for its own profile as report.html beside its figures.
"""

import argparse
import operator
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template

import pandas as pd
import yaml
from markdown_it import MarkdownIt

from dereason_utils import (
    claims,
    comparisons,
    disk,
    manifest,
    paths,
    profiles,
    registration,
    render,
    results,
    tables,
)
from dereason_utils.errors import InputError, command
from dereason_utils.profiles import Profile
from dereason_utils.split import PAPER

TEMPLATE = Path(__file__).with_name("report_template.md")
PAGE = "report.html"
SILENT = "silent"  # what stands for the paper's value where it gives none
# Why a profile differs where the paper, or General-Reasoner, gives a value and the profile's own comment says no more.
WHY = {
    "model.name": "a policy of the paper's size does not fit this profile's machine",
    "corpus.name": "its problems are too hard for this policy; generated ones have a known number of steps",
    "teacher.name": "a program solves the problems, with a known rate of slips",
    "split.threshold": "the arms ask for it",
    "sft.batch_size": "fewer problems and less memory",
    "sft.learning_rate": "another policy and an adapter want another rate; LOG.md has the pilots",
    "grpo.prompts_per_step": "time: rollouts are the costliest part",
    "grpo.updates_per_step": "one update per batch keeps the policy that samples and the one that learns the same",
    "grpo.learning_rate": "another policy and an adapter want another rate; LOG.md has the pilots",
    "grpo.max_completion": "answers of this corpus and policy are short",
    "grpo.steps": "time",
    "grpo.temperature": "LOG.md has the pilots",
    "eval.benchmarks": "a policy of this size answers next to none of the paper's questions",
    "eval.max_completion": "answers of this corpus and policy are short",
}
TOLD = (
    "judge.via",
    "judge.split_by",
    "grpo.loss",
    "grpo.kl_weight",
    "teacher.via",
)  # in words, by _method or WHY
TABLES = ("table1", "table2", "side_by_side", "effects", "effects_on_these_families", "variances")
FIGURES = (
    ("figure1", "Accuracy against the number of training problems"),
    ("figure2", "Subjects per score"),
    ("figure3", "Training reward"),
    ("figure3_scores", "Training reward per score, as the paper draws it"),
    ("figure4", "Response length"),
    ("figure4_scores", "Response length per score, as the paper draws it"),
    ("figure5", "Policy entropy"),
    ("figure6", "Accuracy of RL checkpoints"),
    ("figure7", "Accuracy against the true number of steps"),
    ("figure14", "The split by difficulty minus each other arm, per number of steps"),
    ("figure10", "Effects of all arm pairs"),
    ("figure11", "What SFT and RL add, per difficulty"),
    ("figure12", "pass@k before and after RL"),
    ("figure13", "Accuracy against cost"),
)
SORT = """
document.querySelectorAll("th").forEach(th => th.addEventListener("click", () => {
  const table = th.closest("table"), column = [...th.parentNode.children].indexOf(th);
  const up = th.dataset.up = th.dataset.up === "1" ? "" : "1";
  const value = row => { const text = row.cells[column].textContent.trim(), number = parseFloat(text.replace("−", "-"));
    return Number.isNaN(number) ? text : number; };
  const order = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  const body = table.tBodies[0];
  [...body.rows].sort((a, b) => (up ? 1 : -1) * order(value(a), value(b))).forEach(row => body.append(row));
}));
"""
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem;color:#222;background:#fff}"
    "img{max-width:100%;height:auto}table{border-collapse:collapse;font-size:.85em}"
    "th,td{padding:.3em .6em;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}"
    "th{cursor:pointer;white-space:nowrap;border-bottom:1px solid #222}th::after{content:' \\2195';color:#999}"
    "td:nth-child(2){min-width:11rem}.wide{overflow-x:auto}code{font-size:.9em;overflow-wrap:anywhere}"
)


def text(names: Sequence[str], figures: str | None = None) -> str:
    """The report on one or several profiles in Markdown.

    figures: prefix of the links to figures, with {profile}; default: from the repository's root. Raises InputError where
    06_figures has not been run.
    """
    figures = "results/{profile}/06_figures/" if figures is None else figures
    made_with = {name: _ran_with_its_seeds(name) for name in names}
    studies = [
        _study(profile, figures.format(profile=name), names[:place])
        for place, (name, profile) in enumerate(made_with.items())
    ]
    if len(names) > 1:
        studies.insert(0, "## The verdicts side by side\n\n" + verdicts_side_by_side(names))
    rules = "\n".join(f"{number}. {rule}" for number, rule in enumerate(claims.RULES, 1))
    profiles_named = ", ".join(f"`{name}`" for name in names)
    settings = _departures_of_all(made_with)
    silent = settings["paper"] == SILENT
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        profiles=f"profile{'s' * (len(names) > 1)} {profiles_named}",
        in_short=in_short(*names),
        departures=settings[~silent].to_markdown(index=False, disable_numparse=True),
        rules=rules,
        studies="\n\n".join(studies),
        silent=settings[silent].drop(columns="paper").to_markdown(index=False, disable_numparse=True),
    )


def in_short(*names: str) -> str:
    """The difficulty split minus each of the paper's other arms and its reverse on the general average, and the verdicts.

    A row per profile; a cell of fewer training seeds than its row says so.
    """
    others, rows = [*(arm for arm in PAPER if arm != "dereason"), "reversed"], {}
    for name in names:
        gains, seeds = comparisons.of_the_split(_csv(name, "effects")), _csv(name, "table1")["seeds"].iloc[0]
        fewer = [f" ({render.counted(own)})" if own < seeds else "" for own in gains["seeds"]]
        cells = map(operator.add, render.with_interval(gains, "difference", "low", "high"), fewer)
        rows[f"`{name}`, {render.counted(seeds)}"] = dict(zip(gains.index, cells, strict=True))
    for corpus, title in tables.CORPORA.items():
        own = tables.on_corpus(tables.reported("table1"), corpus)["avg"]
        rows[f"the paper, {title}"] = (
            (own["dereason"] - own.drop("dereason")).map("{:+z.1f}".format).to_dict()
        )
    shown = pd.DataFrame.from_dict(rows, orient="index", columns=others)
    shown = shown.dropna(axis="columns", how="all").fillna("").rename(columns=results.label)
    shown.index.name = f"{results.label('dereason')} minus"
    verdicts = "\n".join(f"- {render.verdict_line(_csv(name, 'claims'), name)}" for name in names)
    return (
        "General average, in points: of each profile's benchmarks with 95% intervals, the paper's of its own without."
        f"{' The paper did not try the reverse split, the last column.' if results.label('reversed') in shown else ''}\n\n"
        f"{shown.to_markdown(disable_numparse=True)}\n\n{verdicts}"
    )


def verdicts_side_by_side(names: Sequence[str]) -> str:
    """One row per claim, one column per profile; the last says where two scales contradict each other."""
    ledgers = {name: _csv(name, "claims").set_index("id") for name in names}
    rows = []
    for id_, claim in claims.stated()["claim"].items():
        found = {name: ledger.loc[id_, "verdict"] for name, ledger in ledgers.items()}
        clash = {claims.SUPPORTED, claims.CONTRADICTED} <= set(found.values())
        rows.append({"claim": f"{id_}: {claim}", **found, "agree?": "no" if clash else ""})
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def departures(profile: Profile) -> pd.DataFrame:
    """Every setting in which a profile is not the paper's: columns setting, paper, ours, why.

    First what is no single number, then values of which the paper (or General-Reasoner, "GR") gives another, then those
    on which it is silent.
    """
    given = pd.read_csv(paths.committed() / "paper" / "settings.csv", dtype=str).set_index("setting")
    said = comments(profile.name)
    own = {name: value for name, value, _ in profiles.settings_table(profile)}
    different, silent = [], []
    for name, row in given.iterrows():
        theirs = yaml.safe_load(row["value"])
        value = own.get(name, "none")
        if _plain(value) == _plain(theirs):
            continue
        source = "" if row["source"] == "paper" else "GR: "
        why = said.get(name, "")
        why = WHY.get(name, "") if not why or why.startswith(("the paper", "General-Reasoner")) else why
        different.append((name, source + _plain(theirs), _plain(value), why))
    for name, value, source in profiles.settings_table(profile):
        if (
            name not in given.index
            and source == "ours"
            and name not in ("seeds", "other_seeds", "arms", "steps_at_once")
        ):
            silent.append((name, SILENT, _plain(value), said.get(name, "")))
    silent = [row for row in silent if row[0] not in TOLD]
    return pd.DataFrame(_method(profile) + different + silent, columns=["setting", "paper", "ours", "why"])


def _departures_of_all(ran: dict[str, Profile]) -> pd.DataFrame:
    """The departures of several profiles in one table; where they are not the same the last column names the profiles."""
    found = pd.concat([departures(profile).assign(profiles=f"`{name}`") for name, profile in ran.items()])
    joined = (
        found.groupby(["setting", "paper", "ours", "why"], sort=False)["profiles"].agg(list).reset_index()
    )
    joined["profiles"] = joined["profiles"].map(
        lambda named: "all" if len(named) == len(ran) else ", ".join(named)
    )
    order = {setting: place for place, setting in enumerate(dict.fromkeys(joined["setting"]))}
    joined = joined.sort_values("setting", key=lambda names: names.map(order), kind="stable")
    return joined if len(ran) > 1 else joined.drop(columns="profiles")


def _method(profile: Profile) -> list[tuple[str, str, str, str]]:
    """Rows for what the paper describes in words (sections 2.1, 2.2, 3.1 and Eq. 2)."""
    judge = profile.judge
    rater = "the policy, tuned on labelled problems" if judge.via == "policy" else judge.name
    if judge.split_by == "reference":
        rater = f"the true number of steps; {rater} rates too and is compared with it"
    seeds = len(profile.seeds)
    no_kl = "without a KL term no second copy of the policy is needed"
    rows = [
        ("score", "an instruct model of the policy's size rates each problem", rater,
         _comment(profile, "judge.split_by")),
        ("reward", "a model compares the answer with the right one", "rules compare them",
         "rules can be tested and are no model that RL can learn to please"),
        ("RL loss", "GRPO with a KL term of unstated weight",
         f"{profile.grpo.loss} with KL weight {profile.grpo.kl_weight:g}",
         "; ".join([_comment(profile, "grpo.loss"), _comment(profile, "grpo.kl_weight") or no_kl])),
        ("software", "LLaMA-Factory for SFT, verl for RL", "TRL for both",
         "one environment, on a CPU too"),
        ("trainings of each arm", "1", str(seeds), "their spread is part of the answer" if seeds > 1 else "time"),
    ]  # fmt: skip
    return [row for row in rows if row[1] != row[2]]


def _comment(profile: Profile, setting: str) -> str:
    return comments(profile.name).get(setting, "")


def comments(profile: str) -> dict[str, str]:
    """What a profile's files say behind a value, by the setting's dotted name."""
    found, section = {}, ""
    lines = [
        line for path in profiles.files(profile) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    for line in lines:
        if match := re.match(r"(\s*)(\w+):.*?(?:\s#\s(.*))?$", line):
            indent, key, comment = match.groups()
            section = section if indent else key
            if comment:
                found[f"{section}.{key}" if indent else key] = comment
    return found


def page(markdown: str, title: str) -> str:
    """The report as one HTML page whose tables are sorted by a click on a heading."""
    body = MarkdownIt("commonmark").enable("table").render(markdown)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style>{body}<script>{SORT}</script></html>\n"
    )


def ran(name: str, **settled) -> Profile:
    """The profile with the values that its finished steps record: a preset or an override may have changed them.

    Where steps differ, as in a study that went on with other settings, the newest counts. settled: values that only 06
    records. Raises InputError for a damaged manifest.
    """
    sources, recorded, changed = profiles.load(name).sources, {}, dict(settled)
    made = [
        manifest.load(path)
        for stage in paths.STAGES
        for path in (paths.results_root() / name / stage).rglob(paths.MANIFEST)
    ]
    for step in sorted(made, key=lambda step: step.finished):
        recorded |= {
            section: values for section, values in step.parameters.items() if isinstance(values, dict)
        }
    for section, values in recorded.items():
        if values.get("via") == "address":  # a manifest does not say which
            values = values | {"via": "http://address"}
        keys = {f"{section}.{key}": value for key, value in values.items()}
        if section in profiles.KINDS and not keys.keys() <= sources.keys():
            changed[section] = values  # of another kind, which has settings of its own
        else:  # without those that have gone since
            changed |= {key: value for key, value in keys.items() if key in sources}
    return profiles.load(name, changed)


def write_page(folder: Path, profile: str) -> list[str]:
    """06_figures' own page, beside its figures; returns its name."""
    markdown = text([profile], figures="")
    disk.write_text(folder / PAGE, page(markdown, f"Replicating DeReason: profile {profile}"))
    return [PAGE]


def _figure(file: str) -> str:
    number, _, by = file.removeprefix("figure").partition("_")
    return f"Figure {number}" + (f" by {by.removesuffix('s')}" if by else "")


def _shared(name: str, others: Sequence[str]) -> str:
    """Which evaluations of a profile are, byte for byte, those of an earlier one of the report: the same trainings."""
    sentences = []
    for other in others:
        same: dict[str, list[int]] = {}
        for path in sorted((paths.results_root() / name / "05_eval").glob(f"*/*/{paths.MANIFEST}")):
            step = manifest.load(path)
            theirs = paths.manifest_path(other, step.stage, step.arm, step.seed)
            if (
                theirs.exists()
                and manifest.load(theirs).outputs["items.parquet"] == step.outputs["items.parquet"]
            ):
                same.setdefault(step.arm, []).append(step.seed)
        if same:
            told = "; ".join(f"`{arm}` ({render.listed(sorted(seeds))})" for arm, seeds in same.items())
            sentences.append(f"The very trainings of `{other}`, so no second sample, are, by seed: {told}.")
    return " ".join(sentences)


def _study(profile: Profile, figures: str, others: Sequence[str]) -> str:
    """The part of the report that speaks of one profile; others: those before it."""
    name, seeds = profile.name, len(profile.seeds)
    folder, table1 = paths.step_dir(name, "06_figures"), _csv(name, "table1")
    samples = table1["samples"].iloc[0]
    arms = ", ".join(f"`{arm}`" for arm in table1["arm"])
    registered = (
        f"The analysis was registered in results/{name}/{registration.NAME}; 06_figures says whether before the runs."
        if registration.path(name).is_file()
        else "The analysis was not registered before this run."
    )
    drawn = [
        f"**{_figure(file)}: {title}**\n\n![{title}]({figures}{file}.png)"
        for file, title in FIGURES
        if (folder / f"{file}.png").is_file()
    ]
    sections = [
        f"## Profile `{name}`",
        profiles.about(name),
        (
            f"Policy {profile.model.name}, corpus {profile.corpus.name}, {seeds} training seed{'s' * (seeds > 1)}, "
            f"{table1['questions'].iloc[0]} general questions with {samples} samples each; RL makes {profile.grpo.steps} steps of "
            f"{profile.grpo.prompts_per_step} problems; arms {arms}. {registered}"
        ),
        render.seeds_line(table1, len(profiles.load(name).seeds)),
        _shared(name, others),
        "### Verdicts",
        render.verdict_line(_csv(name, "claims"), name),
        render.claims_markdown(_csv(name, "claims"), figures, short=True),
        "### Results",
        *(_effects(name, figures) if table == "effects" else _markdown(folder, table) for table in TABLES),
        *drawn,
        "### What would change our mind",
        _mind(_csv(name, "claims"), _csv(name, "claim_parts")),
        "### Cost",
        render.cost_line(folder.parent),
    ]
    return "\n\n".join(section.strip() for section in sections if section.strip())


def _ran_with_its_seeds(name: str) -> Profile:
    """What ran, with as many training seeds as 06 drew."""
    return ran(name, seeds=list(range(int(_csv(name, "table1")["seeds"].iloc[0]))))


def _effects(name: str, figures: str) -> str:
    """Dereason minus each other arm, on both averages; a link to all pairs, of which many arms have hundreds."""
    pairs = comparisons.of(_csv(name, "effects"), "dereason")
    remarks = [
        *render.about_pairs(pairs),
        f"[All pairs]({figures}effects.md), over which p holm is corrected.",
    ]
    return render.to_markdown(
        render.plain_display(pairs), "The difficulty split minus each other arm", remarks
    )


def _mind(ledger: pd.DataFrame, parts: pd.DataFrame) -> str:
    """What each undecided claim would need, from its tests' detectable effects."""
    undecided = ledger[ledger["verdict"] == claims.UNDECIDED]
    part_untested = undecided[undecided["untested"] != "–"]
    rows = parts[parts["id"].isin(set(undecided["id"]) - set(part_untested["id"]))]
    never = "".join(f"- {row.id} cannot be supported here whatever the seeds: not tested is {row.untested}.\n"
                    for row in part_untested.itertuples())  # fmt: skip
    if rows.empty:
        return never or "No claim that can be tested here is undecided."
    shown = rows[["id", "test", "name", "smallest", "detectable", "unit", "seeds needed"]].copy()
    shown["detectable"] = shown["detectable"].map(lambda x: "–" if pd.isna(x) else f"{x:.2f}")
    return (
        "A repetition of the same size would find an effect of the size `detectable` in 80% of cases, at the level that Holm's "
        "correction asks of the claim that is decided first; `seeds needed` would bring that down to the smallest effect that "
        "counts, with the questions as they are.\n\n"
        + shown.to_markdown(index=False, disable_numparse=True)
        + f"\n\n{never}".rstrip()
    )


def _csv(profile: str, name: str) -> pd.DataFrame:
    return render.read_csv(paths.step_dir(profile, "06_figures") / f"{name}.csv")


def _markdown(folder: Path, name: str) -> str:
    path = folder / f"{name}.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _plain(value) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@command
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m dereason_utils.report", description="The generated report.")
    parser.add_argument("report", type=Path)
    parser.add_argument("--profile", action="append", help="may be given several times (default: cpu)")
    parser.add_argument("--check", action="store_true", help="only say whether the report is up to date")
    options = parser.parse_args(arguments)
    made = text(options.profile or ["cpu"])
    if not options.check:
        disk.write_text(options.report, made)
    elif not options.report.is_file() or options.report.read_text(encoding="utf-8") != made:
        raise InputError(f"{options.report} is not what the results give: run this command without --check.")


if __name__ == "__main__":
    sys.exit(main())
