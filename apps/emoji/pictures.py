"""Draw what is labelled by eye: one-object prompts and the three kinds of pairs by turns, with the oracle's view.

    python -m apps.emoji.pictures emoji-flux --count 200 --output FOLDER

Writes pictures.png and labels.json, which a person corrects, and numbered sheets of 20 to look at. The checkpoint is
loaded by diffusers alone: nothing is controlled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image

from attncontrol.images.visualize import labelled_grid
from attncontrol.models import resolve

from .judge import Outcome, generate, rates, save
from .prompts import Prompt, by_kind

COLUMNS, ROWS = 5, 4  # of a sheet
SIDE = 160  # pixels of a picture on it


def by_turns(count: int, seed: int) -> list[Prompt]:
    """`count` prompts, the kinds taking turns."""
    kinds = by_kind(-(-count // 4), seed).values()
    return [prompt for prompts in zip(*kinds, strict=True) for prompt in prompts][:count]


def sheets(outcomes: list[Outcome]) -> list[Image.Image]:
    """Pages of pictures with the prompts above them."""
    pages = []
    for start in range(0, len(outcomes), COLUMNS * ROWS):
        part = outcomes[start : start + COLUMNS * ROWS]
        rows = [part[index : index + COLUMNS] for index in range(0, len(part), COLUMNS)]
        pages.append(stack([_row(row, start + COLUMNS * index) for index, row in enumerate(rows)]))
    return pages


def _row(outcomes: list[Outcome], first: int) -> Image.Image:
    titles = [f"{first + index}: {outcome.prompt}" for index, outcome in enumerate(outcomes)]
    return labelled_grid([[outcome.image for outcome in outcomes]], column_titles=titles, side=SIDE)


def stack(pages: list[Image.Image]) -> Image.Image:
    """Pictures below one another on the paper of the first."""
    page = Image.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), pages[0].getpixel((0, 0)))
    top = 0
    for part in pages:
        page.paste(part, (0, top))
        top += part.height
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="checkpoint, or a bundled model's name")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=500_000, help="of the first picture; the next ones count on")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    pipe = DiffusionPipeline.from_pretrained(resolve(args.folder))
    pipe.set_progress_bar_config(disable=True)
    outcomes = generate(pipe, by_turns(args.count, args.seed), args.seed)
    save(outcomes, args.output)
    for number, page in enumerate(sheets(outcomes)):
        page.save(args.output / f"sheet{number:02}.png")
    print(rates(outcomes))


if __name__ == "__main__":
    main()
