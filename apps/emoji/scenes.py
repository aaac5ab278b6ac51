"""Render scenes: one to three emoji objects on a soft background, with boxes. Seeded by the generator passed in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .artwork import glyph

SIZE = 64  # pixels of a side
SIZES = {1: (36, 52), 2: (28, 38), 3: (22, 28)}  # longer side of an object, in pixels, by number of objects
BACKGROUNDS = np.array(
    [
        (195, 178, 182),
        (180, 194, 178),
        (177, 186, 200),
        (197, 190, 171),
        (188, 180, 198),
        (178, 192, 194),
        (188, 186, 184),
    ],
    np.float32,
)  # sRGB; pale, and half-way between gray and white, so that both are seen


@dataclass(frozen=True)
class Thing:
    """A noun of a caption or an object of a picture; without a colour it keeps the colours of its artwork."""

    name: str
    colour: str | None = None


@dataclass(frozen=True)
class Placed:
    thing: Thing
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels


def background(rng: np.random.Generator) -> np.ndarray:
    """A linear gradient between two nearby pale colours, (SIZE, SIZE, 3) float32 in 0..1."""
    first = BACKGROUNDS[rng.integers(len(BACKGROUNDS))] + rng.uniform(-6, 6, 3)
    second = first + rng.uniform(-12, 12)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-0.5, 0.5, SIZE, dtype=np.float32)
    weight = 0.5 + 0.5 * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None])
    return ((first + (second - first) * weight[..., None]) / 255).astype(np.float32)


def _overlap(a: tuple, b: tuple) -> float:
    """Shared area over the area of the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(width, 0) * max(height, 0) / smaller


def place(rng: np.random.Generator, things: list[Thing], attempts: int = 40) -> list[tuple[Thing, int, int, int]]:
    """(thing, size, x, y) of each; visible boxes overlap by a tenth at most, sizes shrink where there is no room."""
    low, high = SIZES[len(things)]
    while True:
        for _ in range(attempts):
            placed, boxes = [], []
            for thing in things:
                size = 2 * int(rng.integers(low // 2, high // 2 + 1))
                left, top, right, bottom = glyph(thing.name, thing.colour, size)[1]
                x = int(rng.integers(1 - left, SIZE - right))
                y = int(rng.integers(1 - top, SIZE - bottom))
                box = (x + left, y + top, x + right, y + bottom)
                if any(_overlap(box, other) > 0.1 for other in boxes):
                    break
                placed.append((thing, size, x, y))
                boxes.append(box)
            else:
                return placed
        low, high = low - 2, high - 2


def render(rng: np.random.Generator, things: list[Thing]) -> tuple[np.ndarray, list[Placed]]:
    """Draw the things in random places: image (SIZE, SIZE, 3) uint8, and what is where."""
    image = background(rng)
    boxes = []
    for thing, size, x, y in place(rng, things):
        pixels, (left, top, right, bottom) = glyph(thing.name, thing.colour, size)
        pixels = pixels[top:bottom, left:right]
        target = image[y + top : y + bottom, x + left : x + right]
        target *= 1 - pixels[..., 3:]
        target += pixels[..., :3]
        boxes.append(Placed(thing, (x + left, y + top, x + right, y + bottom)))
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8), boxes
