"""Layouts made by a large language model: what to ask it, and how to read its answer. Nothing here calls a service."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable

from attncontrol.layout.reading import RawLayout, read_layout

INSTRUCTIONS = """\
Plan where the things of a picture go. The picture is 512 pixels wide and 512 high, with the origin at the top left.
For the caption at the end, give every visible thing one bounding box, and several boxes if there are several of it.

Rules
- "phrase" is copied from the caption: the noun with its adjectives, without article or number.
- A box is [left, top, right, bottom] in whole pixels, with left < right and top < bottom, inside 0..512.
- Keep to the relations and counts of the caption. Give things plausible relative sizes, at least 64 pixels each side.
- Boxes overlap only where one thing is on, in or in front of another. Scenery such as sky or grass gets no box.
- Answer with one JSON object and nothing else.

Caption: two red apples to the left of a wooden bowl
Answer: {"image_size": 512, "objects": [{"phrase": "red apples", "boxes": [[30, 150, 150, 270], \
[90, 280, 210, 400]]}, {"phrase": "wooden bowl", "boxes": [[270, 180, 490, 400]]}]}

Caption: {caption}
Answer:"""
BRACKET = re.compile(r"[\[(]([^()\[\]]*)[\])]")
NUMBERS = re.compile(r"\s*-?\d*\.?\d+\s*(?:,\s*-?\d*\.?\d+\s*)*")
PAIRS = re.compile(r"^(?:\W*Objects:)?\s*(\[\s*(?:\]|[(\[{]\s*['\"]))", re.MULTILINE)
LINES = 'lines "name: (x0, y0, x1, y1)"'


def layout_request(prompt: str) -> str:
    """The text to send to a language model to get a layout for a prompt; `read_layout_answer` reads the answer."""
    return INSTRUCTIONS.replace("{caption}", " ".join(prompt.split()))


def read_layout_answer(answer: str, *, image_size: int | tuple[int, int] = 512) -> RawLayout:
    """Reads the layout in a language model's answer, to be passed as `layout=`.

    Reads the JSON that `layout_request` asks for, with or without text or a code fence around it; lines "name: (left,
    top, right, bottom)" in pixels, perhaps numbered, where names may be numbered ("cat_1") or say a place ("cat
    (left)"), and names that are equal without these share one phrase; and the list of LLM-grounded Diffusion,
    [("phrase", [left, top, width, height]), ...] in such pixels. Lines without a box are skipped. A box of that list
    is clipped to the image with a UserWarning, and the list may be empty.

    Args:
        answer: The text as the model gave it.
        image_size: What its pixels are of: one side, or (height, width).

    Returns:
        As `read_layout`.

    Raises:
        ValueError: For an answer without a box and for a box that makes no sense (see `read_layout`).
    """
    if '"objects"' in answer:
        try:
            layout, _ = json.JSONDecoder().raw_decode(answer, max(answer.find("{"), 0))
        except ValueError as error:
            raise ValueError(f"the answer's layout is not JSON: {error}") from error
        return read_layout(layout, image_size=image_size)
    if (pairs := _list_of_pairs(answer)) is not None:
        return read_layout([*map(_corners(image_size), pairs)], image_size=image_size) if pairs else ()
    boxes: dict[str, list[list[float]]] = {}
    for line in answer.splitlines():
        if any(re.search(r"\b\d", inside) for inside in BRACKET.findall(line)):
            name, box = _read_line(line)
            boxes.setdefault(name, []).append(box)
    if not boxes:
        raise ValueError(f'the answer has no box: expected JSON with "objects", or {LINES}')
    return read_layout(boxes, image_size=image_size)


def _list_of_pairs(answer: str) -> list[tuple[str, list[float]]] | None:
    """The phrases and boxes of a list such as [("a cat", [0, 10, 20, 30])], None if the answer has none.

    An older form of it has mappings, {"name": "a cat", "bounding_box": [0, 10, 20, 30]}.
    """
    found = PAIRS.search(answer)
    ends = [match.end() for match in re.finditer(r"\]", answer)] if found else []
    for end in (end for end in ends if end > found.start(1)):
        try:
            items = ast.literal_eval(answer[found.start(1) : end])
            pairs = [(i["name"], i["bounding_box"]) if isinstance(i, dict) else tuple(i) for i in items]
            return [(str(name).rstrip("."), [float(v) for v in box]) for name, box in pairs if box]
        except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
            continue  # the list goes on
    return None


def _corners(image_size: int | tuple[int, int]) -> Callable[[tuple[str, list[float]]], tuple[str, list[float]]]:
    """Turns (phrase, [left, top, width, height]) into corners inside the image."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size

    def convert(pair: tuple[str, list[float]]) -> tuple[str, list[float]]:
        phrase, box = pair
        if len(box) != 4:
            return pair
        corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        inside = [min(max(v, 0.0), side) for v, side in zip(corners, (width, height) * 2, strict=True)]
        if inside == corners or inside[0] >= inside[2] or inside[1] >= inside[3]:
            return phrase, corners
        warnings.warn(f"the box {box} of {phrase!r} reaches outside the image and is clipped", stacklevel=4)
        return phrase, inside

    return convert


def _read_line(line: str) -> tuple[str, list[float]]:
    """The name and the numbers of one line; two brackets of two numbers are the corners."""
    groups = [match for match in BRACKET.finditer(line) if NUMBERS.fullmatch(match[1])]
    before = line[: groups[0].start()].partition(":")[0] if groups else ""
    name = re.sub(r"^\W*(?:\d+[.)])?\W*|\([^()]*\)|[\W_]*\d*\W*$", "", before).replace("_", " ").strip()
    name = re.sub(r"[\W_]*\d*\W*$", "", name)
    numbers = [[float(number) for number in group[1].split(",")] for group in groups]
    if not name or not numbers:
        raise ValueError(f'cannot read this line of the answer, expected "name: (x0, y0, x1, y1)": {line.strip()!r}')
    pairs = len(numbers) > 1 and len(numbers[0]) == len(numbers[1]) == 2
    return name, numbers[0] + numbers[1] if pairs else numbers[0]
