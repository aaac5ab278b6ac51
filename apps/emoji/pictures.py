"""Numbered sheets of pictures that a benchmark kept, to label by eye what they show.

    python -m apps.benchmark_faithfulness --model emoji-flux --pictures --output RESULTS ...
    python -m apps.emoji.pictures RESULTS --count 200 --output FOLDER

Writes the sheets, pictures.webp with all pictures and labels.json, where a person fills in what each
picture shows, as in "red bow; cat". The oracle's answers are nowhere to be seen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from apps.faithfulness.results import PICTURES, Result, ResultFile
from attncontrol.images.visualize import labelled_grid

from .judge import packed

COLUMNS, ROWS = 6, 4  # of a sheet
SIDE = 200  # pixels of a picture on it


def chosen(folder: Path, count: int, seed: int) -> list[Result]:
    """`count` of the kept pictures' results, in random order."""
    kept = [result for result in ResultFile(folder).results.values() if (folder / PICTURES / result.picture).exists()]
    order = np.random.default_rng(seed).permutation(len(kept))[:count]
    return [kept[index] for index in order]


def sheet(images: list[Image.Image], prompts: list[str], first: int) -> Image.Image:
    """Pictures with their numbers and prompts above them."""
    titles = [f"{first + index}: {prompt}" for index, prompt in enumerate(prompts)]
    rows = range(0, len(images), COLUMNS)
    return stack(
        [labelled_grid([images[r : r + COLUMNS]], column_titles=titles[r : r + COLUMNS], side=SIDE) for r in rows]
    )


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
    parser.add_argument("results", type=Path, help="the benchmark's folder")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the random order")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    results = chosen(args.results, args.count, args.seed)
    images = [Image.open(args.results / PICTURES / result.picture) for result in results]
    args.output.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(images), COLUMNS * ROWS):
        part = slice(start, start + COLUMNS * ROWS)
        page = sheet(images[part], [result.prompt for result in results[part]], start)
        page.save(args.output / f"sheet{start:03}.png")
    packed(images).save(args.output / "pictures.webp", lossless=True)
    labels = [{"prompt": r.prompt, "method": r.method, "seed": r.seed, "seen": ""} for r in results]
    (args.output / "labels.json").write_text("[\n" + ",\n".join(map(json.dumps, labels)) + "\n]\n")


if __name__ == "__main__":
    main()
