"""Prompt files: one reader per format, each a stream of records and of problems with their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from attncontrol.batch.formats.json_lines import read_json_lines
from attncontrol.batch.formats.lines import HEAD_BYTES, decode
from attncontrol.batch.formats.raw_row import ROW_KEYS, Problem, Record
from attncontrol.batch.formats.tables import column_names, read_csv, read_tsv
from attncontrol.batch.formats.text import read_text
from attncontrol.batch.formats.yaml_rows import read_yaml

__all__ = ["FORMATS", "ROW_KEYS", "Problem", "Record", "file_format", "read_records"]

Reader = Callable[[Path], Iterator[Record | Problem]]
FORMATS: dict[str, Reader] = {
    "text": read_text,
    "csv": read_csv,
    "tsv": read_tsv,
    "json lines": read_json_lines,
    "yaml": read_yaml,
}
EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".yaml": "yaml",
    ".yml": "yaml",
}


def read_records(path: Path) -> Iterator[Record | Problem]:
    """The rows of a prompt file in order, one at a time in constant memory. Raises ValueError if it cannot be read."""
    return FORMATS[file_format(path)](path)


def file_format(path: Path) -> str:
    """A key of FORMATS: by the extension, and for other extensions by how the content begins.

    Raises ValueError for a file that cannot be opened, is no UTF-8 text, or is a JSON array.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{str(path)!r} is UTF-16: save it as UTF-8")
    if head.startswith((b"PK\x03\x04", b"\x89PNG", b"%PDF", b"\x1f\x8b")):
        raise ValueError(f"{str(path)!r} is no text file: give plain text, CSV, TSV, JSON Lines or YAML in UTF-8")
    return EXTENSIONS.get(path.suffix.lower()) or _by_content(path, decode(head))


def _by_content(path: Path, head: str) -> str:
    lines = (line.strip("\r\n") for line in head.split("\n"))
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    if first.startswith("{"):
        return "json lines"
    if first.startswith("[") and path.suffix.lower() == ".json":
        raise ValueError(f"{str(path)!r} is a JSON array: write one object per line (JSON Lines)")
    if first.startswith("---") or re.match(r"- +\w+:( |$)", first):
        return "yaml"
    for name, separator in (("tsv", "\t"), ("csv", ",")):
        columns = column_names(first.split(separator))
        if "prompt" in columns and len(columns) > 1 and set(columns) <= set(ROW_KEYS):
            return name
    return "text"
