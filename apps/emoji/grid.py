"""Draw every word of the emoji world once, with the oracle's judgement: the picture in the model card.

python -m apps.emoji.grid emoji --output grid.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusers import DiffusionPipeline

from attncontrol.images.visualize import labelled_grid
from attncontrol.models import resolve

from .captions import phrase
from .judge import generate, rates
from .pictures import stack
from .prompts import Prompt
from .scenes import Thing
from .vocabulary import ANIMALS, COLOURS, OBJECTS

SIDE = 96  # pixels of a picture in the grid


def rows() -> list[list[Prompt]]:
    """The animals, the objects as they are, and each colour on an object of its own."""
    coloured = [Thing(name, colour) for name, colour in zip(OBJECTS, COLOURS, strict=False)]
    things = [[Thing(name) for name in ANIMALS], [Thing(name) for name in OBJECTS], coloured]
    return [[(phrase(thing), [thing]) for thing in row] for row in things]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="checkpoint, or a bundled model's name")
    parser.add_argument("--seed", type=int, default=0, help="of the first picture; the next ones count on")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    pipe = DiffusionPipeline.from_pretrained(resolve(args.folder))
    pipe.set_progress_bar_config(disable=True)
    prompts = rows()
    drawn = generate(pipe, [prompt for row in prompts for prompt in row], args.seed)
    print(rates(drawn))
    pages, images = [], iter(outcome.image for outcome in drawn)
    for row in prompts:
        titles = [text for text, _ in row]
        pages.append(labelled_grid([[next(images) for _ in row]], column_titles=titles, side=SIDE))
    stack(pages).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
