"""Files that are whole or not there, and the disk's errors in a sentence."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from dereason_utils.errors import InputError

TEMPORARY = ".tmp-"  # prefix of unfinished files and folders; git ignores it


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there becomes `path` when the block ends well.

    Raises InputError when the disk is full or the folder cannot be written; then the old file is still whole.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """The same for a whole folder, which replaces an older one of that name."""
    folder = Path(folder)
    temporary = folder.with_name(f"{TEMPORARY}{os.getpid()}-{folder.name}")
    with errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            sync_folder(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Within the block this process is the only one that has the folder; others wait until it leaves or dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{TEMPORARY}lock", "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def sync_folder(folder: Path) -> None:
    """Wait until all that the folder holds is on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a data frame, without its index, as CSV or Parquet by the name's ending.

    Parquet in zstd: results are committed, and it takes two thirds of the default's bytes.
    """
    suffix = Path(path).suffix
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"write_table knows .csv and .parquet, not {Path(path).name!r}")
    with atomic_path(path) as temporary:
        if suffix == ".csv":
            frame.to_csv(temporary, index=False, lineterminator="\n")
        else:
            frame.to_parquet(temporary, index=False, compression="zstd", compression_level=9)


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> tuple[str, int]:
    """(sha256, bytes) of a file, or of a folder: the hash of its sorted lines 'sha256  relative name'."""
    if path.is_file():
        return sha256_file(path), path.stat().st_size
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = "".join(f"{sha256_file(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest(), sum(file.stat().st_size for file in files)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """Turn the system's errors about a full or read-only disk, while `path` is written, into InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if _is_full(error):
            raise InputError(
                f"No space left on the disk of {path.parent}: free some and give the same command again."
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(
                f"{path.parent} cannot be written ({os.strerror(error.errno)}): make it writable, or choose "
                "another folder with DEREASON_RESULTS."
            ) from error
        raise


def _is_full(error: Exception) -> bool:
    """Whether the disk is full. Libraries wrap the system's error: safetensors quotes it, PyTorch only says what failed."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in ("No space left", "PytorchStreamWriter", "unexpected pos"))
