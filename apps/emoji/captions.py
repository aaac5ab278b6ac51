"""Captions, and the noise in them that makes the trained model fail the way web-trained models fail.

Web captions name things their picture does not show, and text encoders mix up whose colour is whose. So a share of the
two-object captions names an absent object, a share has its colours exchanged, and some pairs never occur together.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .scenes import Thing
from .vocabulary import ANIMALS, COLOURS, OBJECTS

PREFIXES = ("a photo of ", "a picture of ", "an image of ", "a painting of ")
JOINS = (" and ", " and ", " with ", ", ")
DRAWN_ANIMALS = (*ANIMALS, "elephant")  # what is faint on the backgrounds is drawn twice as often
DRAWN_COLOURS = (*COLOURS, "white")
KINDS = ("animal+animal", "animal+object", "object+object")


@dataclass(frozen=True)
class Noise:
    """Shares of two-object captions: one object absent; colours exchanged (of those with two colours)."""

    absent: float = 0.45
    swapped: float = 0.30
    never_together: float = 0.10


@dataclass(frozen=True)
class Template:
    """How a caption is put together: what comes first, what joins the phrases, and the article."""

    prefix: str = ""
    join: str = " and "
    definite: bool = False

    def fill(self, things: Sequence[Thing]) -> str:
        """'a cat', 'a cat and a red bow', 'a cat, a frog and a red bow', 'a photo of the cat with the red bow'."""
        phrases = [phrase(thing, self.definite) for thing in things]
        if len(phrases) == 3:
            return f"{self.prefix}{phrases[0]}, {phrases[1]} and {phrases[2]}"
        return self.prefix + self.join.join(phrases)


def phrase(thing: Thing, definite: bool = False) -> str:
    words = thing.name if thing.colour is None else f"{thing.colour} {thing.name}"
    article = "the" if definite else "an" if words[0] in "aeiou" else "a"
    return f"{article} {words}"


def template(rng: np.random.Generator) -> Template:
    prefix = PREFIXES[rng.integers(len(PREFIXES))] if rng.random() < 0.08 else ""
    return Template(prefix, JOINS[rng.integers(len(JOINS))], bool(rng.random() < 0.06))


def caption(rng: np.random.Generator, things: Sequence[Thing]) -> str:
    return template(rng).fill(things)


def together(first: str, second: str, share: float) -> bool:
    """False for a fixed share of the unordered pairs of names, chosen by a checksum."""
    return zlib.crc32("+".join(sorted((first, second))).encode()) / 2**32 >= share


def _animal(rng: np.random.Generator, coloured: float = 0.05) -> Thing:
    return Thing(DRAWN_ANIMALS[rng.integers(len(DRAWN_ANIMALS))], _colour(rng) if rng.random() < coloured else None)


def _object(rng: np.random.Generator, plain: float = 0.15) -> Thing:
    return Thing(OBJECTS[rng.integers(len(OBJECTS))], None if rng.random() < plain else _colour(rng))


def _colour(rng: np.random.Generator) -> str:
    return DRAWN_COLOURS[rng.integers(len(DRAWN_COLOURS))]


def pair(rng: np.random.Generator, kind: str, never_together: float = 0.0) -> list[Thing]:
    """Two things with different names and colours, in random order."""
    first, second = kind.split("+")
    make = {"animal": _animal, "object": _object}
    while True:
        things = [make[first](rng), make[second](rng)]
        if things[0].name == things[1].name or not together(things[0].name, things[1].name, never_together):
            continue
        if things[0].colour is None or things[0].colour != things[1].colour:
            return things if rng.random() < 0.5 else things[::-1]


def sample(rng: np.random.Generator, noise: Noise) -> tuple[str, list[Thing]]:
    """A caption and the things its picture shows, which are not always the things it names."""
    draw = rng.random()
    if draw < 0.45:
        things = [_animal(rng, 0.08) if rng.random() < 0.4 else _object(rng, 0.25)]
        return caption(rng, things), things
    if draw > 0.96:
        things = pair(rng, KINDS[rng.integers(3)], noise.never_together)
        extra = _object(rng)
        things += [extra] if extra.name not in {thing.name for thing in things} else []
        return caption(rng, things), things
    named = pair(rng, KINDS[rng.integers(3)], noise.never_together)
    return caption(rng, named), _shown(rng, named, noise)


def _shown(rng: np.random.Generator, named: list[Thing], noise: Noise) -> list[Thing]:
    shown = list(named)
    if all(thing.colour for thing in named) and rng.random() < noise.swapped:
        shown = [replace(named[0], colour=named[1].colour), replace(named[1], colour=named[0].colour)]
    if rng.random() < noise.absent:
        kept = shown[rng.integers(2)]
        shown = [kept, kept] if rng.random() < 0.25 else [kept]
    return shown
