"""Phrases and token positions as Attention Refocusing's published code finds them, for comparison with it only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attncontrol.layout.regions import Box


@dataclass(frozen=True)
class PublishedObjects:
    """What the published code makes of a layout.

    `words` are the words of all names; `positions` and `boxes` belong to those found in the prompt, in the same
    order; `phrases` and `phrase_boxes` are the grounding inputs of GLIGEN, one per given box.
    """

    words: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    boxes: tuple[tuple[Box, ...], ...]
    phrases: tuple[str, ...]
    phrase_boxes: tuple[Box, ...]


def published_objects(
    prompt: str, names: Sequence[str], boxes: Sequence[Sequence[float]], image_size: int = 512
) -> PublishedObjects:
    """Every word of every name is an object, found by counting words (Attention Refocusing, section 1.1).

    Digits and underscores leave the names, a word of several names collects their boxes, and its position is that
    of the first equal word of the prompt (or of the word + s, + es), punctuation . and , removed. No tokenizer
    takes part, so a word split into pieces or a comma shifts all later positions: use `place` for guidance.
    """
    letters = str.maketrans("_", " ", "0123456789")
    scaled = [tuple(v / image_size for v in box) for box in boxes]
    collected: dict[str, list[Box]] = {}
    for name, box in zip(names, scaled, strict=True):
        for word in dict.fromkeys(part for part in name.translate(letters).split(" ")):
            collected.setdefault(word, []).append(box)
    written = prompt.replace(".", "").replace(",", "").split(" ")
    found = {
        word: next((written.index(form) + 1 for form in (word, word + "s", word + "es") if form in written), None)
        for word in collected
    }
    kept = [word for word, position in found.items() if position is not None]
    return PublishedObjects(
        words=tuple(collected),
        positions=tuple((found[word],) for word in kept),
        boxes=tuple(tuple(collected[word]) for word in kept),
        phrases=tuple(f"a {name.translate(letters)}" for name in names),
        phrase_boxes=tuple(scaled),
    )
