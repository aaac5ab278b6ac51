"""Lines of UTF-8 files, decoded so that damage shows where it is instead of ending the reading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

HEAD_BYTES = 65536
LONGEST_LINE = 1 << 20


def decode(data: bytes) -> str:
    """UTF-8 with or without byte order mark; bytes that are none become lone surrogates, which rows reject."""
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")


def numbered_lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Line numbers from 1 and lines with their line ends; None for a line of more than LONGEST_LINE bytes."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(LONGEST_LINE)
                yield number, None
            else:
                yield number, decode(line) if number == 1 else line.decode("utf-8", errors="surrogateescape")


def too_long() -> str:
    """The message for a line that `numbered_lines` gives up on."""
    return f"the line has more than {LONGEST_LINE} bytes: a prompt has at most a few thousand characters"
