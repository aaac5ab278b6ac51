"""CSV and TSV with a header, those of PartiPrompts and DrawBench included."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attncontrol.batch.formats.lines import numbered_lines
from attncontrol.batch.formats.raw_row import ROW_KEYS, Problem, Record
from attncontrol.losses.registry import nearest

ALIASES = {"prompts": "prompt"}  # DrawBench
DESCRIPTIVE = ("category", "challenge", "note")  # PartiPrompts, DrawBench
JSON_CELLS = ("control", "subjects", "layout", "grounding", "seeds", "metadata")


def read_csv(path: Path) -> Iterator[Record | Problem]:
    """Comma-separated, cells in double quotes where they hold commas, quotes or line breaks."""
    return _Table(path, {"delimiter": ",", "strict": True}).records()


def read_tsv(path: Path) -> Iterator[Record | Problem]:
    """Tab-separated, without quoting: a quote is a quote (as in PartiPrompts)."""
    return _Table(path, {"delimiter": "\t", "quoting": csv.QUOTE_NONE}).records()


def column_names(header: Sequence[str]) -> list[str]:
    """Header cells as names of ROW_KEYS where they mean one of them; descriptive columns are "metadata"."""
    names = [cell.strip().lower().replace(" ", "_") for cell in header]
    return ["metadata" if name in DESCRIPTIVE else ALIASES.get(name, name) for name in names]


class _Table:
    def __init__(self, path: Path, dialect: dict[str, Any]) -> None:
        self.path, self.line = path, 0
        self.rows = csv.reader(self._lines(), **dialect)

    def _lines(self) -> Iterator[str]:
        for number, line in numbered_lines(self.path):
            self.line = number
            yield "x" * (csv.field_size_limit() + 1) if line is None else line  # the reader refuses it as too long

    def records(self) -> Iterator[Record | Problem]:
        header = next((row for row in self._rows() if isinstance(row, Problem) or any(row[1])), None)
        if header is None or isinstance(header, Problem):
            yield header or Problem(str(self.path), 1, None, "the file is empty: expected a header with 'prompt'")
            return
        names = column_names(header[1])
        problems = list(self._header_problems(header[0], names))
        yield from problems
        if problems:
            return
        for row in self._rows():
            if isinstance(row, Problem):
                yield row
            elif any(cell.strip() for cell in row[1]):
                yield self._record(*row, names, header[1])

    def _rows(self) -> Iterator[tuple[int, list[str]] | Problem]:
        """Rows with the line they begin on."""
        while True:
            first = self.line + 1
            try:
                yield first, next(self.rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Problem(str(self.path), first, None, f"{error}: close quotes, double those inside a quoted cell")

    def _header_problems(self, line: int, names: list[str]) -> Iterator[Problem]:
        for name in dict.fromkeys(names):
            if name not in ROW_KEYS:
                message = f"unknown column{nearest(name, list(ROW_KEYS))}"
                yield Problem(str(self.path), line, name or "(empty)", message)
            elif names.count(name) > 1 and name != "metadata":
                yield Problem(str(self.path), line, name, "there are two columns of this name: keep one")
        if "prompt" not in names:
            yield Problem(str(self.path), line, "prompt", "the first line has no such column: it must name them")

    def _record(self, line: int, cells: list[str], names: list[str], header: list[str]) -> Record | Problem:
        if len(cells) > len(names):
            message = f"{len(cells)} cells in a table of {len(names)} columns: put a cell that holds commas in quotes"
            return Problem(str(self.path), line, None, message)
        values: dict[str, Any] = {}
        described: dict[str, str] = {}
        for name, title, cell in zip(names, header, cells, strict=False):
            if not cell.strip():
                continue
            if name == "metadata" and title.strip().lower() in DESCRIPTIVE:
                described[title.strip().lower()] = cell
                continue
            try:
                values[name] = _cell(name, cell)
            except (ValueError, RecursionError) as error:
                return Problem(str(self.path), line, name, f"is not JSON: {error}")
        if described:
            values["metadata"] = described
        return Record(line, values, textual=True)


def _cell(name: str, cell: str) -> Any:
    """Lists and mappings are JSON; subjects may also be parted by semicolons, seeds by spaces or commas."""
    if name not in JSON_CELLS:
        return cell.strip()
    if cell.lstrip().startswith(("{", "[")):
        return json.loads(cell)
    if name == "subjects":
        return [subject.strip() for subject in cell.split(";")]
    return cell.replace(",", " ").split() if name == "seeds" else cell.strip()
