"""Draw the same prompts with several models, plain and controlled, one above the other.

python -m apps.compare_models --output docs/images/two_models.webp
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from apps.benchmark_faithfulness import Drawing, pictures
from apps.faithfulness.prompts import KINDS, read_list, sample
from attncontrol import AttentionControlPipeline
from attncontrol.images.visualize import labelled_grid
from attncontrol.losses.combining import resolve_control
from attncontrol.models import BUNDLED, default_call

COUNTS = dict(zip(KINDS, (3, 4, 3), strict=True))  # prompts of each kind


def draw(model: str, control: str, prompts: list[str], seed: int) -> tuple[list[Image.Image], list[Image.Image]]:
    """A row of plain pictures and a row of controlled ones from the same noise."""
    pipe = AttentionControlPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    call = default_call(model)
    drawing = Drawing(call["num_inference_steps"], call["guidance_scale"], len(prompts))
    cases = [(prompt, seed) for prompt in prompts]
    plain, controlled = (resolve_control(c, pipe.tuned_settings) for c in (None, control))
    return pictures(pipe, plain, cases, drawing), pictures(pipe, controlled, cases, drawing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*BUNDLED])
    parser.add_argument("--control", default="conform")
    parser.add_argument("--sample-seed", type=int, default=3, help="of the draw of prompts")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    prompts = [text for kind, count in COUNTS.items() for text in sample(read_list(kind), count, args.sample_seed)]
    rows = [row for model in args.models for row in draw(model, args.control, prompts, args.seed)]
    titles = [f"{model}, {name}" for model in args.models for name in ("plain", args.control)]
    labelled_grid(rows, row_titles=titles, column_titles=prompts, side=128).save(args.output)


if __name__ == "__main__":
    main()
