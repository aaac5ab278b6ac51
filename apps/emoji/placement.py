"""Does the model draw things into their boxes? Grounding against plain sampling and Attention Refocusing.

    python -m apps.emoji.placement FOLDER --gates gates.safetensors --count 18 --seed 700000 --output placement.json

18 prompts of each kind, 72 in all, with boxes as the renderer would place the things; the oracle says what is where.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from attncontrol import AttentionControlPipeline
from attncontrol.grounding import add_gates

from ..faithfulness.report import iou
from .judge import BATCH, Outcome, generate, rates, sheet
from .prompts import Prompt, by_kind
from .scenes import SIZE, render

Box = tuple[float, float, float, float]
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention-refocusing": {"control": "attention-refocusing"},
    "GLIGEN": {"grounding": "gligen"},
    "ReGround": {"grounding": "reground"},
    "GLIGEN + attention-refocusing": {"grounding": "gligen", "control": "attention-refocusing"},
}
PLACED = 0.5  # least intersection over union of a thing that is in its box


def boxes_of(prompt: Prompt, seed: int) -> list[Box]:
    """A box for each thing of a prompt, in 0..1, as in a rendered scene."""
    placed = render(np.random.default_rng([seed, 21]), prompt[1])[1]
    return [tuple(side / SIZE for side in item.box) for item in placed]


def overlaps(outcome: Outcome, prompt: Prompt, boxes: list[Box]) -> list[float]:
    """For each thing the intersection over union of its box with the best one of its name; 0 where it is missing."""
    seen = outcome.verdict.detections
    return [
        max((iou(box, item.box) for item in seen if item.object == thing.name), default=0.0)
        for thing, box in zip(prompt[1], boxes, strict=True)
    ]


def draw(pipe: Any, prompts: list[Prompt], boxes: list[list[Box]], seed: int, **call: Any) -> list[Outcome]:
    """One picture per prompt with its layout."""
    layouts = [
        {thing.name if thing.colour is None else f"{thing.colour} {thing.name}": box
         for thing, box in zip(things, own, strict=True)}
        for (_, things), own in zip(prompts, boxes, strict=True)
    ]  # fmt: skip
    return [
        outcome
        for start in range(0, len(prompts), BATCH)
        for outcome in generate(
            pipe, prompts[start : start + BATCH], seed + start, layout=layouts[start : start + BATCH], **call
        )
    ]


def measure(pipe: Any, count: int, seed: int, pictures: Path | None = None) -> dict[str, Any]:
    """Per arm: mean IoU, share of things in their boxes, and the oracle's rates of presence."""
    prompts = [prompt for part in by_kind(count, seed).values() for prompt in part]
    boxes = [boxes_of(prompt, seed + row) for row, prompt in enumerate(prompts)]
    figures, drawn = {}, []
    for name, call in ARMS.items():
        outcomes = draw(pipe, prompts, boxes, seed, **call)
        found = [v for o, p, b in zip(outcomes, prompts, boxes, strict=True) for v in overlaps(o, p, b)]
        placed = float(np.mean([value >= PLACED for value in found]))
        figures[name] = {"IoU": round(float(np.mean(found)), 4), "in its box": round(placed, 4), **rates(outcomes)}
        print(name, figures[name], flush=True)
        drawn += [outcome.image for outcome in outcomes]
    if pictures:
        sheet(drawn, len(prompts)).save(pictures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="checkpoint, or 'emoji'")
    parser.add_argument("--gates", type=Path, help="file with gates, for a checkpoint without")
    parser.add_argument("--count", type=int, default=18, help="prompts of each of the four kinds")
    parser.add_argument("--seed", type=int, default=700_000)
    parser.add_argument("--pictures", type=Path, help="PNG of all pictures, a row per arm")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    pipe = AttentionControlPipeline.from_pretrained(args.folder)
    pipe.set_progress_bar_config(disable=True)
    if args.gates:
        add_gates(pipe, args.gates)
    figures = measure(pipe, args.count, args.seed, args.pictures)
    if args.output:
        args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
