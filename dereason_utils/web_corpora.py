"""The paper's training corpora as problems of this project's schema (paper, section 3.1; facts of the columns below).

WebInstruct-verified (General-Reasoner, arXiv 2505.14652) and Webscale-RL (arXiv 2510.06499) come from the hub at a fixed
commit, or from a local folder of Parquet or JSON files with the same columns, for machines that reach no hub. Every row
that is left out is counted under the first filter that it fails.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dereason_utils import hub_data
from dereason_utils.errors import InputError
from dereason_utils.profiles import CORPUS_HUBS
from dereason_utils.schema import Problem
from dereason_utils.verify import gold_is_scorable
from dereason_utils.verify.rules import kind_of


@dataclass(frozen=True)
class Columns:
    """What a corpus's columns are called; None: it has no such column."""

    id: str | None
    subject: str
    answer_type: str | None

    @property
    def columns(self) -> list[str]:
        named = (self.id, "question", "answer", self.answer_type, self.subject)
        return [name for name in named if name]


# Webscale-RL also has the source text, whose column is named differently in different copies; it is never read.
CORPORA = {
    "webinstruct_verified": Columns("id", "category", "answer_type"),
    "webscale_rl": Columns(None, "domain", None),
}


def read(name: str, path: str | None = None, revision: str | None = None) -> pd.DataFrame:
    """The rows of a corpus, with the columns of `CORPORA[name].columns`.

    path, revision: as in `hub_data.load`, which says what is refused; a missing column is InputError as well.
    """
    corpus, hub = CORPORA[name], CORPUS_HUBS[name]
    rows = hub_data.load(hub, "train", path, revision, ("corpus.path", "corpus.revision"))
    if missing := [column for column in corpus.columns if column not in rows.column_names]:
        where = f"{hub} (commit {revision})" if path is None else path
        raise InputError(
            f"{where} lacks the column {missing[0]!r} (it has {', '.join(rows.column_names)}): give it the columns of "
            f"{hub}."
        )
    return rows.select_columns(corpus.columns).to_pandas()


@dataclass(frozen=True)
class Filtered:
    """What a corpus gave: problems (the fields of `schema.Problem`), counts per filter, and what was dropped.

    counts: columns filter, dropped, left. dropped: columns row (from 1, in the source), filter, question, answer.
    """

    problems: pd.DataFrame
    counts: pd.DataFrame
    dropped: pd.DataFrame


def to_problems(rows: pd.DataFrame, name: str, max_question: int, max_answer: int) -> Filtered:
    """Rows of `read` as problems. max_question, max_answer: characters.

    The filters, in this order: a question, answer or id that is no text or empty ('malformed'); a question that stands
    there again with the same answer ('repeated') or with another one ('contradictory', all of them); a question or an
    answer that is too long; an answer that the checker cannot score ('unverifiable').
    """
    corpus = CORPORA[name]
    table = pd.DataFrame({
        "row": range(1, len(rows) + 1),
        "key": rows[corpus.id].map(_text) if corpus.id else "",
        "question": rows["question"].map(_text),
        "answer": rows["answer"].map(_text),
        "answer_type": rows[corpus.answer_type].map(_text) if corpus.answer_type else "",
        "subject": rows[corpus.subject].map(_text).str.lower(),
    })  # fmt: skip
    needed = ["question", "answer", *(["key"] if corpus.id else [])]
    malformed = (table[needed] == "").any(axis=1)
    # A malformed row says nothing about another row with its question.
    same = table["question"].str.split().str.join(" ").str.casefold()[~malformed]
    tests = {
        "malformed": malformed,
        "contradictory": (table["answer"].groupby(same).transform("nunique") > 1).reindex(
            table.index, fill_value=False
        ),
        "repeated": same.duplicated().reindex(table.index, fill_value=False),
        "question too long": table["question"].str.len() > max_question,
        "answer too long": table["answer"].str.len() > max_answer,
    }
    failed = pd.Series("", index=table.index)
    for label, test in tests.items():
        failed = failed.mask((failed == "") & test, label)
    left = table[failed == ""]
    scorable = [gold_is_scorable(r.answer, r.answer_type or None, r.question) for r in left.itertuples()]
    failed[left.index[[not ok for ok in scorable]]] = "unverifiable"
    counts, remaining = [], len(table)
    for label in (*tests, "unverifiable"):
        dropped = int((failed == label).sum())
        remaining -= dropped
        counts.append({"filter": label, "dropped": dropped, "left": remaining})
    kept = table[failed == ""]
    if kept.empty:
        worst = max(counts, key=lambda count: count["dropped"])
        raise InputError(
            f"No problem of {name} is left: of {len(rows)} rows the filter {worst['filter']!r} dropped "
            f"{worst['dropped']}; look at the files or widen the limits."
        )
    out = table[failed != ""][["row", "question", "answer"]]
    out.insert(1, "filter", failed[failed != ""])
    return Filtered(_problems(kept, name, corpus), pd.DataFrame(counts), out.reset_index(drop=True))


def _text(value) -> str:
    """A text or whole number without blanks around it; '' for everything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
        return ""
    return str(value).strip()


def _problems(kept: pd.DataFrame, name: str, corpus: Columns) -> pd.DataFrame:
    """The steps are unknown, so 0. A row without an id is named by its question's hash."""
    key = (
        kept["key"]
        if corpus.id
        else kept["question"].map(lambda q: hashlib.sha256(q.encode()).hexdigest()[:16])
    )
    kinds = [kind_of(r.question, r.answer, r.answer_type or None) for r in kept.itertuples()]
    problems = pd.DataFrame({
        "id": name + "-" + key, "question": kept["question"], "answer": kept["answer"], "answer_type": kinds,
        "subject": kept["subject"].replace("", "other"), "family": name, "steps": 0,
    }).reset_index(drop=True)  # fmt: skip
    if (again := problems["id"].duplicated()).any():
        twice = problems["id"][again].iloc[0].removeprefix(f"{name}-")
        raise InputError(f"The corpus {name} has the id {twice!r} twice: give each row an id of its own.")
    return problems[list(Problem.model_fields)]


def subset(problems: pd.DataFrame, train_size: int | None, validation_size: int, seed: int) -> pd.DataFrame:
    """Draw training and validation problems by the seed; adds the column `split`. train_size None: all that are left.

    A smaller training set is the beginning of a larger one of the same seed.
    """
    wanted = validation_size + (train_size or 1)
    if wanted > len(problems):
        raise InputError(
            f"{wanted} problems are wanted and {len(problems)} are left after the filters: lower corpus.train_size."
        )
    order = np.random.default_rng([seed, 3]).permutation(len(problems))
    end = len(problems) if train_size is None else validation_size + train_size
    parts = {"validation": order[:validation_size], "train": order[validation_size:end]}
    tables = [problems.iloc[np.sort(places)].assign(split=split) for split, places in parts.items()]
    return pd.concat(tables, ignore_index=True)
