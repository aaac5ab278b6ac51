"""Prompt files: one reader per format, each a stream of records and of problems with their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from attncontrol.batch.formats.json_lines import read_json_array, read_json_lines
from attncontrol.batch.formats.lines import HEAD_BYTES, decode
from attncontrol.batch.formats.naming import understood
from attncontrol.batch.formats.raw_row import ROW_KEYS, Problem, Record
from attncontrol.batch.formats.tables import read_csv, read_tsv
from attncontrol.batch.formats.text import read_text
from attncontrol.batch.formats.yaml_rows import read_yaml

__all__ = ["FORMATS", "ROW_KEYS", "Problem", "Record", "file_format", "read_records"]

ARRAY = re.compile(r"\s*\[\s*(?:[{\"]|\]\s*$)")
Reader = Callable[[Path], Iterator[Record | Problem]]
FORMATS: dict[str, Reader] = {
    "text": read_text,
    "json lines": read_json_lines,
    "json": read_json_array,
    "yaml": read_yaml,
}
TABLES = {"csv": read_csv, "tsv": read_tsv}
EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".yaml": "yaml",
    ".yml": "yaml",
}


def read_records(path: Path, prompt_column: str | None = None) -> Iterator[Record | Problem]:
    """The rows of a prompt file in order, one at a time in constant memory (JSON arrays are held whole).

    `prompt_column` names the column or key of the prompt where it is not called so.

    Raises:
        ValueError: If the file cannot be read.
    """
    name = file_format(path, prompt_column)
    records = TABLES[name](path, prompt_column) if name in TABLES else FORMATS[name](path)
    return understood(records, path, prompt_column)


def file_format(path: Path, prompt_column: str | None = None) -> str:
    """A key of FORMATS or TABLES: by the extension, and for other extensions by how the content begins.

    Raises:
        ValueError: For a file that cannot be opened or is no UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{str(path)!r} is UTF-16: save it as UTF-8")
    if head.startswith((b"PK\x03\x04", b"\x89PNG", b"%PDF", b"\x1f\x8b", b"PAR1")):
        raise ValueError(f"{str(path)!r} is no text file: give plain text, CSV, TSV, JSON Lines or YAML in UTF-8")
    known = EXTENSIONS.get(path.suffix.lower())
    text = decode(head)
    if known in (None, "json lines") and ARRAY.match(text):
        return "json"
    return known or _by_content(text, prompt_column)


def _by_content(head: str, prompt_column: str | None) -> str:
    lines = (line.strip("\r\n") for line in head.split("\n"))
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    if first.startswith("{"):
        return "json lines"
    if first.startswith("---") or re.match(r"- +\w+:( |$)", first):
        return "yaml"
    for name, separators in (("tsv", "\t"), ("csv", ",;|")):
        for separator in separators:
            cells = [cell.strip().strip('"').lower() for cell in first.split(separator)]
            named = {"prompt", "prompts", (prompt_column or "prompt").lower()}
            if len(cells) > 1 and named.intersection(cells) and all(re.fullmatch(r"[\w.-]*", cell) for cell in cells):
                return name
    return "text"
