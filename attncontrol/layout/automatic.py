"""layout="auto": boxes from the relations and counts a prompt names, by a few rules."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from attncontrol.layout.regions import Box, Layout
from attncontrol.prompt.structure import Entity, PromptStructure

SIDE = r"(?:to |on |at )?(?:the |its )?{}(?:[- ]hand)?(?: side)? of"
AT = r"(?:in|on|at|to) the (?:far )?{}(?: side| corner| half)?(?= |,|\.|;|$)(?! of)"
RELATIONS = re.compile(
    r"\b(?:"
    + "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in {
            "left": SIDE.format("left"),
            "right": SIDE.format("right"),
            "above": r"above|over|on (?:the )?top of|atop",
            "below": r"below|under|underneath|beneath|at the (?:bottom|foot) of",
            "beside": r"by the side of|in (?:front|back) of|next to|beside|near",
            "at_left": AT.format("left"),
            "at_right": AT.format("right"),
            "at_top": AT.format("top"),
            "at_bottom": AT.format("bottom"),
            "onto": r"on|onto",
            "within": r"in the (?:middle|cent(?:er|re)) of|in|inside|within|against|(?<!ing )at",
            "of": r"of",
        }.items()
    )
    + r")(?!\w)",
    re.IGNORECASE,
)
STEPS = {"left": (1, 0), "right": (-1, 0), "above": (0, 1), "below": (0, -1), "onto": (0, 1)}
AT_FIRST = {"at_left": "left", "at_right": "right", "at_top": "above", "at_bottom": "below"}
AT_SECOND = {"at_left": "right", "at_right": "left", "at_top": "below", "at_bottom": "above"}
COUNTS = {
    word: number
    for number, words in enumerate(
        ("two both couple", "three trio", "four", "five", "six", "seven", "eight", "nine", "ten"), 2
    )
    for word in words.split()
}
LARGEST_COUNT = 16
MARGIN = 0.1
LARGEST_ASPECT = 1.5


def automatic_layout(structure: PromptStructure) -> Layout:
    """A layout from the words between a prompt's entities.

    Each entity is put relative to the one before: left of, right of, above (over, on, on top of) or below (under,
    beneath) it as the words say, "on the left", "at the top" and so on likewise; in every other case to its right.
    What something is in or at ("in a garden", "inside a box"), and what comes before "of" ("a photo of a cat"), gets
    no box. The rows share the height equally, the entities of a row its width; "three cats" get three boxes in their
    part. Boxes leave a margin of a tenth on each side and are at most 1.5 times as long as wide.

    Raises:
        ValueError: If the prompt has no entity.
    """
    cells = _grid(structure)
    if not cells:
        raise ValueError(
            "layout='auto' finds nothing to place in this prompt: give the boxes, or name the things with subjects="
        )
    rows = sorted({row for _, row in cells.values()})
    in_rows = [sorted((i for i, cell in cells.items() if cell[1] == row), key=lambda i: cells[i][0]) for row in rows]
    areas = _divide((0.0, 0.0, 1.0, 1.0), [len(row) for row in in_rows])
    boxes: list[tuple[Box, ...]] = [()] * len(structure.entities)
    for i, area in zip((i for row in in_rows for i in row), areas, strict=True):
        boxes[i] = tuple(map(_box, _divide(area, _count_rows(area, _count(structure, structure.entities[i])))))
    return Layout(tuple(boxes))


def _grid(structure: PromptStructure) -> dict[int, tuple[int, int]]:
    """(column, row) of every entity that gets a box, by its number."""
    cells: dict[int, tuple[int, int]] = {}
    before = previous = None  # the entity before in the text, and the last one with a cell
    for i in _visible(structure):
        relation = _relation(structure, before, i) if before is not None else "first"
        skip = relation == "within" or (relation == "of" and before != previous)
        if relation == "of" and not skip:
            cells[i] = cells.pop(previous)
        elif not skip:
            cells[i] = _free_cell(cells, cells.get(previous, (0, 0)), STEPS.get(relation, (1, 0)))
        before, previous = i, previous if skip else i
    return cells


def _free_cell(cells: dict[int, tuple[int, int]], start: tuple[int, int], step: tuple[int, int]) -> tuple[int, int]:
    """The first cell from `start` on that nothing is in."""
    while start in cells.values():
        start = start[0] + step[0], start[1] + step[1]
    return start


def _visible(structure: PromptStructure) -> list[int]:
    """The entities whose noun is no part of a relation ("to the left of"), in text order."""
    relations = [m.span() for m in RELATIONS.finditer(structure.prompt or "")]
    nouns = [entity.noun.span or (0, 0) for entity in structure.entities]
    visible = [i for i, noun in enumerate(nouns) if not any(s[0] < noun[1] and noun[0] < s[1] for s in relations)]
    return sorted(visible, key=lambda i: nouns[i])


def _relation(structure: PromptStructure, first: int, second: int) -> str:
    """How entity `first` lies to the later entity `second`: a key of STEPS, "within", "of" or "beside"."""
    between = _text(structure, first, second)
    found = RELATIONS.search(between)
    name = found.lastgroup if found else "beside"
    if name in AT_FIRST:
        return AT_FIRST[name]
    if name == "beside":
        after = RELATIONS.match(_text(structure, second, None).lstrip(" "))
        return AT_SECOND.get(after.lastgroup, name) if after else name
    return name


def _text(structure: PromptStructure, first: int, second: int | None) -> str:
    """The prompt between two entities, or after the first."""
    start = structure.entities[first].noun.span
    if structure.prompt is None or start is None:
        return ""
    end = len(structure.prompt) if second is None else _start(structure.entities[second])
    return "" if end is None else structure.prompt[start[1] : end]


def _start(entity: Entity) -> int | None:
    """Where an entity's first word before or at its noun begins."""
    noun = entity.noun.span
    return noun and min(w.span[0] for w in (*entity.modifiers, entity.noun) if w.span and w.span[0] <= noun[0])


def _count(structure: PromptStructure, entity: Entity) -> int:
    """The number word right before an entity, 1 without one or beyond LARGEST_COUNT."""
    start = _start(entity)
    before = (structure.prompt or "")[:start] if start is not None else ""
    match = re.search(r"\b(\w+)(?: of)?(?: the)?\s*$", before.lower())
    count = COUNTS.get(match[1], int(match[1]) if re.fullmatch(r"[0-9]{1,3}", match[1]) else 1) if match else 1
    return count if 1 <= count <= LARGEST_COUNT else 1


def _count_rows(area: Box, count: int) -> list[int]:
    """How many of `count` things stand in each row of an area so that the shorter side of each is longest."""
    width, height = area[2] - area[0], area[3] - area[1]
    shorter = {n: round(min(width / n, height / math.ceil(count / n)), 6) for n in range(1, count + 1)}
    rows = math.ceil(count / max(shorter, key=lambda columns: (shorter[columns], columns)))
    return [count // rows + (i < count % rows) for i in range(rows)]


def _divide(area: Box, rows: Sequence[int]) -> list[Box]:
    """Split an area into rows of equal height and row i into rows[i] parts of equal width, in reading order."""
    x0, y0, x1, y1 = area
    width, height = x1 - x0, (y1 - y0) / len(rows)
    return [
        (x0 + width * c / n, y0 + height * r, x0 + width * (c + 1) / n, y0 + height * (r + 1))
        for r, n in enumerate(rows)
        for c in range(n)
    ]


def _box(area: Box) -> Box:
    """An area without its margin, cut to the largest aspect ratio around its centre."""
    x0, y0, x1, y1 = area
    width, height = (x1 - x0) * (1 - 2 * MARGIN), (y1 - y0) * (1 - 2 * MARGIN)
    width, height = min(width, height * LARGEST_ASPECT), min(height, width * LARGEST_ASPECT)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
