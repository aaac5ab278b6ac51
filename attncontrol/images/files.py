"""Writing files so that none is ever half there."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write, which appears at `path` complete when the block ends, or not at all.

    The bytes go to a hidden file ".<name>.<random>.tmp" in the same folder (made if missing), are flushed to the disk
    and renamed; on any exception the hidden file is removed.

    Raises:
        ValueError: If `path` is there and `overwrite` is not set, or if the folder cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        make_folder(path.parent)
        file = temporary.open("xb")
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        check_free(path, overwrite=overwrite)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def write_text(path: str | Path, text: str, *, overwrite: bool = False) -> None:
    """Writes a UTF-8 text file with `atomic_file`."""
    with atomic_file(path, overwrite=overwrite) as file:
        file.write(text.encode("utf-8"))


def make_folder(path: Path) -> None:
    """Makes a folder, and those it lies in, where missing, so that they survive a power loss. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _flush_folder(folder.parent)


def sha256(path: Path) -> str | None:
    """The SHA-256 of a file's content in hexadecimal digits, None for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def check_free(path: str | Path, *, overwrite: bool = False) -> None:
    """Raises ValueError if writing to `path` would replace a file without `overwrite`, or replace a folder."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"cannot write {str(path)!r}: it is a folder")
    if not overwrite and path.exists():
        raise ValueError(f"{str(path)!r} is already there: choose another name or folder, or allow overwriting")


def _flush_folder(folder: Path) -> None:
    """Makes the renaming itself survive a power loss, where the system can open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
