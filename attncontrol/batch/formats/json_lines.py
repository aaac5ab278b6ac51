"""JSON Lines and arrays: rows of our own, and GenEval's metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attncontrol.batch.formats.lines import decode, numbered_lines, too_long
from attncontrol.batch.formats.raw_row import Problem, Record, short


def read_json_lines(path: Path) -> Iterator[Record | Problem]:
    """One JSON object a line; empty lines are skipped."""
    for number, line in numbered_lines(path):
        if line is None:
            yield Problem(str(path), number, None, too_long())
            continue
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_object, parse_constant=_constant)
        except json.JSONDecodeError as error:
            message = f"is not JSON: {error.msg} at column {error.colno}"
            yield Problem(str(path), number, None, message)
            continue
        except (ValueError, RecursionError) as error:
            yield Problem(str(path), number, None, f"is not JSON that can be used: {error}")
            continue
        yield _record(path, number, value)


BETWEEN = re.compile(r"\s*(,?)\s*")


def read_json_array(path: Path) -> Iterator[Record | Problem]:
    """The items of one array, objects or texts; the file is held in memory."""
    text = decode(path.read_bytes())
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
    start, line, counted = text.index("[") + 1, 1, 0
    start = _next(text, start)[0]
    while start < len(text) and text[start] != "]":
        line, counted = line + text.count("\n", counted, start), start
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            where = getattr(error, "lineno", line)
            reason = f"is not JSON: {getattr(error, 'msg', error)}; what follows was not read"
            yield Problem(str(path), where, None, reason)
            return
        yield _record(path, line, {"prompt": value} if isinstance(value, str) else value)
        start, comma = _next(text, end)
        if start < len(text) and text[start] != "]" and not comma:
            yield Problem(str(path), line, None, "is not JSON: a comma is missing behind; what follows was not read")
            return
    if start >= len(text):
        yield Problem(str(path), line, None, "is not JSON: the array has no end ']'; is the file cut off?")


def _next(text: str, start: int) -> tuple[int, bool]:
    """Where the next item begins behind space and a comma, and whether that was there."""
    match = BETWEEN.match(text, start)
    return (match.end(), bool(match[1])) if match else (start, False)


def _record(path: Path, number: int, value: Any) -> Record | Problem:
    if not isinstance(value, dict):
        return Problem(str(path), number, None, f'expected an object {{"prompt": "..."}}, not {short(value)}')
    if "tag" in value and "include" in value:
        return Record(number, {"prompt": value["prompt"], "metadata": value} if "prompt" in value else {})
    return Record(number, value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {short(twice)} is there twice")
    return value


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
