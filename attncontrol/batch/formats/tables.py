"""CSV and TSV with a header, those of PartiPrompts and DrawBench included."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attncontrol.arguments import nearest
from attncontrol.batch.formats.lines import numbered_lines
from attncontrol.batch.formats.naming import HOW_TO_NAME, meanings
from attncontrol.batch.formats.raw_row import ROW_KEYS, Problem, Record

SEPARATORS = ",;\t|"


def read_csv(path: Path, prompt_column: str | None = None) -> Iterator[Record | Problem]:
    """Cells parted by what parts the header, in double quotes where they hold that, quotes or line breaks."""
    return _Table(path, {"delimiter": _separator(path), "strict": True}, prompt_column).records()


def read_tsv(path: Path, prompt_column: str | None = None) -> Iterator[Record | Problem]:
    """Tab-separated, without quoting: a quote is a quote (as in PartiPrompts)."""
    return _Table(path, {"delimiter": "\t", "quoting": csv.QUOTE_NONE}, prompt_column).records()


def _separator(path: Path) -> str:
    """The one of SEPARATORS that the first line has most of, or which it names, as spreadsheets do: "sep=;"."""
    header = next((line for _, line in numbered_lines(path) if line and line.strip()), "")
    if named := re.fullmatch(r"sep=(.)\s*", header):
        return named[1]
    unquoted = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=unquoted.count)


class _Table:
    def __init__(self, path: Path, dialect: dict[str, Any], prompt_column: str | None) -> None:
        self.path, self.line, self.prompt_column = path, 0, prompt_column
        self.rows = csv.reader(self._lines(), **dialect)

    def _lines(self) -> Iterator[str]:
        for number, line in numbered_lines(self.path):
            self.line = number
            yield "x" * (csv.field_size_limit() + 1) if line is None else line  # the reader refuses it as too long

    def records(self) -> Iterator[Record | Problem]:
        header = next((row for row in self._rows() if isinstance(row, Problem) or _is_header(row[1])), None)
        if header is None or isinstance(header, Problem):
            yield header or Problem(str(self.path), 1, None, "the file is empty: expected a header with 'prompt'")
            return
        titles = _titles(header[1])
        problems = list(self._header_problems(header[0], titles))
        yield from problems
        if problems:
            return
        for row in self._rows():
            if isinstance(row, Problem):
                yield row
            elif any(cell.strip() for cell in row[1]):
                yield self._record(*row, titles)

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

    def _header_problems(self, line: int, titles: list[str]) -> Iterator[Problem]:
        names = meanings(tuple(titles), self.prompt_column)
        for title, name in dict.fromkeys(zip(titles, names, strict=True)):
            if name not in ROW_KEYS:
                yield Problem(str(self.path), line, title, f"unknown column{nearest(name.lower(), ROW_KEYS)}")
            elif titles.count(title) > 1:
                yield Problem(str(self.path), line, title, "there are two columns of this name: keep one")
        if "prompt" not in names:
            missing = f"there is no column {self.prompt_column or 'prompt'!r} among {', '.join(titles)[:300]}"
            yield Problem(str(self.path), line, "prompt", f"{missing}: {HOW_TO_NAME}")

    def _record(self, line: int, cells: list[str], titles: list[str]) -> Record | Problem:
        if len(cells) > len(titles) and any(cell.strip() for cell in cells[len(titles) :]):
            message = f"{len(cells)} cells in a table of {len(titles)} columns: put a cell that holds commas in quotes"
            return Problem(str(self.path), line, None, message)
        values = {title: cell for title, cell in zip(titles, cells, strict=False) if cell.strip()}
        return Record(line, values, textual=True)


def _titles(header: list[str]) -> list[str]:
    """The cells of a header, numbered where they are empty, or repeat one that means nothing here."""
    titles: list[str] = []
    for number, cell in enumerate(map(str.strip, header), 1):
        repeated = cell in titles and meanings((cell,)) == ("metadata",)
        titles.append(f"{cell or 'column'} {number}" if repeated or not cell else cell)
    return titles


def _is_header(cells: list[str]) -> bool:
    return any(cells) and not cells[0].startswith("sep=")
