"""Rendered data sets on disk: images, captions, and what is really shown where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .captions import Noise, sample
from .scenes import SIZE, Placed, Thing, render

CLEAN = Noise(absent=0, absent_objects=0, swapped=0)


def build(folder: Path, count: int, noise: Noise, seed: int) -> None:
    """Write images.npy (count, SIZE, SIZE, 3) uint8 and captions.jsonl, one record a scene."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, SIZE, SIZE, 3))
    with open(folder / "captions.partial", "w") as file:
        for index in range(count):
            text, things = sample(rng, noise)
            images[index], placed = render(rng, things)
            shown = [[item.thing.name, item.thing.colour, list(map(int, item.box))] for item in placed]
            file.write(json.dumps({"caption": text, "shown": shown}) + "\n")
    images.flush()
    (folder / "captions.partial").rename(folder / "captions.jsonl")


def load(folder: Path) -> tuple[np.ndarray, list[str], list[list[Placed]]]:
    """The images (memory-mapped), captions and placed things that `build` wrote."""
    records = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    placed = [[Placed(Thing(name, colour), tuple(box)) for name, colour, box in r["shown"]] for r in records]
    return np.load(folder / "images.npy", mmap_mode="r"), [r["caption"] for r in records], placed
