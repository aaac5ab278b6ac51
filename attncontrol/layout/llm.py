"""Layouts made by a large language model: what to ask it, and how to read its answer. Nothing here calls a service."""

from __future__ import annotations

import json
import re

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
LINE = re.compile(r"(?P<name>[^:]+):\s*[\[(](?P<box>[^()\[\]]*)[\])]")


def layout_request(prompt: str) -> str:
    """The text to send to a language model to get a layout for a prompt; `read_layout_answer` reads the answer."""
    return INSTRUCTIONS.replace("{caption}", " ".join(prompt.split()))


def read_layout_answer(answer: str, *, image_size: int | tuple[int, int] = 512) -> RawLayout:
    """The layout in a language model's answer, to be passed as `layout=`.

    Reads the JSON that `layout_request` asks for, with or without text or a code fence around it, and lines
    "name: (left, top, right, bottom)" in pixels of `image_size`, where names may be numbered ("cat_1") and names
    that are equal without their numbers share one phrase. Lines without a bracket are skipped.

    Raises ValueError for an answer without a box and for a box that makes no sense (see `read_layout`).
    """
    if '"objects"' in answer:
        try:
            layout, _ = json.JSONDecoder().raw_decode(answer, max(answer.find("{"), 0))
        except ValueError as error:
            raise ValueError(f"the answer's layout is not JSON: {error}") from error
        return read_layout(layout, image_size=image_size)
    boxes: dict[str, list[list[float]]] = {}
    for line in answer.splitlines():
        if "(" in line or "[" in line:
            name, box = _read_line(line)
            boxes.setdefault(name, []).append(box)
    if not boxes:
        raise ValueError('the answer has no box: expected JSON with "objects", or lines "name: (x0, y0, x1, y1)"')
    return read_layout(boxes, image_size=image_size)


def _read_line(line: str) -> tuple[str, list[float]]:
    match = LINE.search(line)
    name = re.sub(r"^\W*(?:\d+[.)])?\W*|[\W_]*\d*\W*$", "", match["name"]).replace("_", " ") if match else ""
    try:
        box = [float(number) for number in match["box"].split(",")] if name else []
    except ValueError:
        box = []
    if not box:
        raise ValueError(f'cannot read this line of the answer, expected "name: (x0, y0, x1, y1)": {line.strip()!r}')
    return name, box
