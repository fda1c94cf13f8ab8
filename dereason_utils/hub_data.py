"""Rows of a data set from the hub at a fixed commit, or from a local folder with the same columns."""

from pathlib import Path

from dereason_utils import paths
from dereason_utils.errors import InputError, first_line
from dereason_utils.profiles import is_commit

FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}


def load(hub: str, split: str, path: str | None, revision: str | None, settings: tuple[str, str]):
    """The rows, as a `datasets.Dataset`.

    path: a local folder, from the repository's root; None: the hub, at the commit `revision`. settings: the names of the
    settings that hold these two, for the messages. Raises InputError when the folder holds no data, a file is damaged,
    the commit is not one, or the hub cannot be reached.
    """
    from datasets import load_dataset

    if path is not None:
        source = {**_local_files(paths.REPO / path), "split": "train"}
    elif is_commit(revision):
        source = {"path": hub, "revision": revision, "split": split}
    else:
        raise InputError(
            f"{hub} has the revision {revision!r}: write the 40 digits of a commit of it with `make pins` or as "
            f"{settings[1]}, or set {settings[0]} to a local folder with its files."
        )
    try:
        return load_dataset(**source)
    except Exception as error:  # the libraries below raise errors of a dozen kinds
        if (
            path is not None
        ):  # not in the library's words: they may quote a line of a benchmark that asks for secrecy
            raise InputError(
                f"{path} cannot be read ({type(error).__name__}): replace the damaged file."
            ) from None
        raise InputError(
            f"{hub} (commit {revision}) cannot be read ({first_line(error)}): check the network, the commit and your "
            f"access, or set {settings[0]} to a local folder with its files."
        ) from error


def _local_files(folder: Path) -> dict:
    """What `load_dataset` needs for the folder's data files."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in FORMATS) if folder.is_dir() else []
    kinds = {FORMATS[path.suffix] for path in files}
    if len(kinds) != 1:
        found = "both Parquet and JSON files" if kinds else "no Parquet or JSON file"
        raise InputError(f"{folder} holds {found}: put the data set's files of one format there.")
    return {"path": kinds.pop(), "data_files": [str(path) for path in files]}
