"""Problems on disk, read and written a part at a time: a corpus of a million need not fit into memory as text.

What is decided about problems (scores, selections) is a small table with one row each; the texts stay in files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow
from pyarrow import parquet

from dereason_utils import disk, manifest, schema
from dereason_utils.errors import InputError, first_line

ROWS = 20_000  # of a part, and of a row group in what is written


def require(step: manifest.Manifest, name: str, columns: Sequence[str]) -> Path:
    """A Parquet file of problems that a finished step wrote, after `schema.check` part by part; its path.

    Raises InputError, with the command that makes the file again, when it cannot be read or does not pass.
    """
    path = step.folder / name
    remedy = f"make it again with `{manifest.command(step.profile, step.stage, step.arm, step.seed)}`"
    others = [column for column in columns if column != "id"]
    done = 0
    try:
        for rows in read(path):
            where = f"{path}, from row {done + 1}" if done else str(path)
            schema.check(rows, where, others, remedy)
            done += len(rows)
        ids = pd.read_parquet(path, columns=["id"] if "id" in parquet.read_schema(path).names else [])
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}): {remedy}.") from error
    schema.check(ids, str(path), ["id"], remedy)
    return path


def read(path: Path, columns: Sequence[str] | None = None, size: int = ROWS) -> Iterator[pd.DataFrame]:
    """A Parquet file's rows, at most `size` at a time, in order; an index of their places in the file."""
    place = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=size, columns=columns):
            rows = batch.to_pandas()
            rows.index = pd.RangeIndex(place, place + len(rows))
            place += len(rows)
            yield rows


def write(path: Path, tables: Iterable[pd.DataFrame]) -> None:
    """Write tables of the same columns, of which there is at least one, as a Parquet file's row groups."""
    writer = None
    with disk.atomic_path(path) as temporary:
        try:
            for rows in tables:
                known = writer.schema if writer else None
                table = pyarrow.Table.from_pandas(rows, schema=known, preserve_index=False)
                writer = writer or parquet.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
        finally:
            if writer:
                writer.close()


def some(path: Path, ids: Sequence[str]) -> pd.DataFrame:
    """The whole rows of a few problems, in the file's order."""
    return pd.concat(rows[rows["id"].isin(ids)] for rows in read(path))


def answer(path: Path, teach: Callable, target: Path) -> pd.DataFrame | None:
    """Write the teacher's answers to the problems of `path` that are not for tests to `target`; returns its replies.

    teach: of `teacher.open_teacher`, asked once for each part. Columns of target: id, answered, and the teacher's own, which
    begin with response.
    """
    replies = []

    def answered() -> Iterator[pd.DataFrame]:
        for number, part in enumerate(read(path)):
            asked = part[part["split"] != "test"].reset_index(drop=True)
            if len(asked):
                rows, said = teach(asked, f"part-{number}")
                replies.append(said)
                own = rows[["id", *(name for name in rows if name.startswith("response"))]]
                yield own.assign(answered=own["response"] != "")

    write(target, answered())
    spoken = [said for said in replies if said is not None]
    return pd.concat(spoken, ignore_index=True) if spoken else None


def token_counts(path: Path, tokenizer, column: str) -> pd.Series:
    """How many tokens each row's text has, by id."""
    counted = []
    for rows in read(path, ["id", column], size=1000):  # a tokenizer keeps hundreds of bytes for each token
        counts = [len(ids) for ids in tokenizer(list(rows[column]))["input_ids"]]
        counted.append(pd.Series(counts, index=rows["id"]))
    return pd.concat(counted)
