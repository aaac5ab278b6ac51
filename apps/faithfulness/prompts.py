"""The 276 two-object prompts of the Attend-and-Excite benchmark, tuning and one-object prompts, and boxes.

    python -m apps.faithfulness.prompts

writes the lists to prompts/.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from apps.emoji.prompts import one_object, pairs
from attncontrol.images.files import write_text

FOLDER = Path(__file__).parents[2] / "prompts"
KINDS = {
    "animals": ("animal+animal", 66, "every pair of the 12 animals"),
    "animals_objects": ("animal+object", 144, "every animal with every object, in a colour drawn at random"),
    "objects": ("object+object", 66, "every pair of the 12 objects, in two colours drawn at random"),
}
GUARD = "one_object"  # prompts with nothing to repair, which control must not spoil
TUNING = "tuning"  # prompts that settings are chosen on
SEED, TUNING_SEED = 0, 100_000
BOX_SIDE = (0.38, 0.46)  # of a box, as share of the image, along the line from box to box


def benchmark(kind: str) -> list[str]:
    """The prompts of one kind, in alphabetical order; the draws of colours, order and form are fixed by `SEED`."""
    name, count, _ = KINDS[kind]
    return sorted(text for text, _ in pairs(name, count, SEED))


def guard() -> list[str]:
    """Every animal, and every object in up to two colours drawn at random, alone; in alphabetical order."""
    return sorted({text for text, _ in one_object(48, SEED)})


def tuning() -> list[str]:
    """96 pairs, 32 of each kind, in the order in which their seeds count up; other draws than the benchmark's."""
    return [text for name, _, _ in KINDS.values() for text, _ in pairs(name, 32, TUNING_SEED)]


def write_lists(folder: Path = FOLDER) -> None:
    """One file per kind, one prompt a line."""
    lists = {
        kind: (f"{count} prompts of the Attend-and-Excite benchmark: {what}", benchmark(kind))
        for kind, (_, count, what) in KINDS.items()
    }
    lists[TUNING] = ("pairs that settings are tuned on, the n-th from 0 on with seed 100,000 + n", tuning())
    lists[GUARD] = ("every animal, and every object in up to two colours drawn at random, alone", guard())
    for kind, (head, prompts) in lists.items():
        write_text(folder / f"{kind}.txt", f"# {head}\n" + "".join(f"{p}\n" for p in prompts), overwrite=True)


def read_list(kind: str, folder: Path = FOLDER) -> list[str]:
    """The prompts of a list in prompts/."""
    lines = (folder / f"{kind}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def sample(prompts: list[str], count: int | None, seed: int = 0) -> list[str]:
    """`count` of the prompts, drawn without replacement, in their order; all if None or too many."""
    if count is None or count >= len(prompts):
        return prompts
    chosen = np.random.default_rng(seed).choice(len(prompts), count, replace=False)
    return [prompts[i] for i in sorted(chosen)]


def layout_for(prompt: str, phrases: list[str]) -> dict[str, list[float]]:
    """A box for each of one or two phrases: beside or above one another, in either order, of varied size.

    Depends on the prompt alone. Boxes are x0, y0, x1, y1 in 0..1 and do not touch.
    """
    rng = np.random.default_rng(zlib.crc32(prompt.encode()))
    sideways, swapped = rng.random(2) < 0.5
    boxes = []
    for half in (0.0, 0.5):
        along, across = rng.uniform(*BOX_SIDE), rng.uniform(0.45, 0.6)
        first = half + rng.uniform(0.02, 0.48 - along)
        second = rng.uniform(0.05, 0.95 - across)
        box = (first, second, first + along, second + across)
        boxes.append([round(float(v), 3) for v in (box if sideways else (box[1], box[0], box[3], box[2]))])
    return dict(zip(phrases, boxes[::-1] if swapped else boxes, strict=False))


if __name__ == "__main__":
    write_lists()
