"""Generate pictures for prompts and let the oracle judge them. Used by the gate, tuning and figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attncontrol.evaluation.oracle import Verdict, detect, verdict
from attncontrol.families import family_of
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.losses.combining import resolve_control
from attncontrol.models import default_call
from attncontrol.prompt.align import tokenize

from .prompts import Prompt

BATCH = 16


@dataclass(frozen=True)
class Outcome:
    """One generated picture and its verdict.

    `peaks`: each expected word's highest attention (raw probability) in the first quarter of sampling, if recorded.
    """

    prompt: str
    seed: int
    verdict: Verdict
    image: Image.Image
    peaks: tuple[float, ...] = ()


def generate(
    pipe: Any,
    prompts: list[Prompt],
    first_seed: int,
    *,
    alter: Callable[[torch.Tensor, list[str]], torch.Tensor] | None = None,
    record: bool = False,
    **call: Any,
) -> list[Outcome]:
    """One picture per prompt, seeds from first_seed on; `alter` may change the text states (N, slots, width).

    `record` reads the attention of the things' names where Attend-and-Excite looks; `call` goes to the pipeline
    (control, guidance_scale, ...), beside what the model is best called with.
    """
    outcomes = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        seeds = range(first_seed + start, first_seed + start + len(part))
        texts = [text for text, _ in part]
        given: dict[str, Any] = {"prompt": texts} | default_call(pipe.name_or_path) | call
        if alter is not None:
            states, others = text_states(pipe, texts)
            given |= {"prompt": None, "prompt_embeds": alter(states, texts)} | others
        early = max(1, given["num_inference_steps"] // 4)
        with recorded_attention(pipe, len(part), early) if record else nullcontext([]) as steps:
            images = pipe(**given, generator=[torch.Generator().manual_seed(seed) for seed in seeds]).images
        peaks = _peaks(pipe, steps, part) if record else [()] * len(part)
        found = detect(images)
        for (text, things), seed, image, seen, peak in zip(part, seeds, images, found, peaks, strict=True):
            expected = [(thing.name, thing.colour) for thing in things]
            outcomes.append(Outcome(text, seed, verdict(expected, seen), image, peak))
    return outcomes


def text_states(pipe: Any, texts: list[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The states of the text's words (N, slots, width), and what else the pipeline wants beside them."""
    if hasattr(pipe, "tokenizer_2"):
        slots = default_call(pipe.name_or_path)["max_sequence_length"]
        states, pooled, _ = pipe.encode_prompt(texts, None, device=pipe.device, max_sequence_length=slots)
        return states, {"pooled_prompt_embeds": pooled}
    states, empty = pipe.encode_prompt(texts, pipe.device, 1, True)
    return states, {"negative_prompt_embeds": empty}


@contextmanager
def recorded_attention(pipe: Any, images: int, steps: int) -> Iterator[list[torch.Tensor]]:
    """The mean maps [images, height, width, positions] in the first calls of the denoiser inside.

    Of the layers that Attend-and-Excite looks at, as it is set for this model.
    """
    family = family_of(pipe)
    method = resolve_control("attend-and-excite", pipe.tuned_settings).parts[0][1]
    kept: list[torch.Tensor] = []
    looking: list[bool] = []

    def look(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        if looking or len(kept) == steps:
            return
        looking.append(True)
        call = family.bind(args, kwargs)
        layers = method.select_layers(family.layers(family.grid(call)))
        guided = GuidedPass(family, call, layers, prompts=images)
        with torch.no_grad(), guided.run(guided.start, range(images)) as (_, maps):
            kept.append(maps.mean_cross(layers[0].size))
        looking.clear()

    handle = family.denoiser.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield kept
    finally:
        handle.remove()


def _peaks(pipe: Any, steps: list[torch.Tensor], prompts: list[Prompt]) -> list[tuple[float, ...]]:
    """Each thing's highest attention in these steps."""
    highest = torch.stack(steps).amax((0, 2, 3))
    tokenizer, peaks = family_of(pipe).tokenizer, []
    for (text, things), row in zip(prompts, highest, strict=True):
        tokens = tokenize(tokenizer, text)
        spans = [re.search(rf"\b{thing.name}\b", text).span() for thing in things]
        peaks.append(tuple(row[list(tokens.token_indices(span))].max().item() for span in spans))
    return peaks


def rates(outcomes: list[Outcome]) -> dict[str, float]:
    """Shares: all objects present, all present in their colours, of single objects present."""
    single = [value for outcome in outcomes for value in outcome.verdict.present]
    return {
        "present": round(float(np.mean([o.verdict.all_present for o in outcomes])), 4),
        "right": round(float(np.mean([o.verdict.all_right for o in outcomes])), 4),
        "each object": round(float(np.mean(single)), 4),
        "n": len(outcomes),
    }


def save(outcomes: list[Outcome], folder: Path) -> None:
    """Write pictures.png and labels.json with the oracle's view, for labelling by eye."""
    folder.mkdir(parents=True, exist_ok=True)
    packed([outcome.image for outcome in outcomes]).save(folder / "pictures.png", optimize=True)
    labels = [{"prompt": o.prompt, "seed": o.seed, "present": list(o.verdict.present)} for o in outcomes]
    lines = ",\n".join(json.dumps(label) for label in labels)
    (folder / "labels.json").write_text(f"[\n{lines}\n]\n")


def packed(images: list[Image.Image]) -> Image.Image:
    """Square pictures of one size on a page, 16 to a row, without gaps."""
    side = images[0].width
    page = Image.new("RGB", (16 * side, -(-len(images) // 16) * side))
    for index, image in enumerate(images):
        page.paste(image, (side * (index % 16), side * (index // 16)))
    return page


def sheet(images: list[Image.Image], columns: int, enlarge: int = 1) -> Image.Image:
    """A contact sheet with white gaps."""
    side = images[0].width * enlarge
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (side + 2), rows * (side + 2)), "white")
    for index, image in enumerate(images):
        place = ((index % columns) * (side + 2), (index // columns) * (side + 2))
        page.paste(image.resize((side, side), Image.Resampling.LANCZOS), place)
    return page
