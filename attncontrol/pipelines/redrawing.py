"""Images that a method of the control does not accept, drawn anew (docs/methods/redraw.md)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from attncontrol.guidance.record import ControlRecord, ImageRecord
from attncontrol.losses.base import Method
from attncontrol.losses.best_start import reordered

Arguments = Mapping[str, Any]
Run = Callable[[Arguments], tuple[Any, ControlRecord]]
OF_PROMPTS = re.compile(r"(negative_)?(pooled_)?prompt(_\w+)?|subjects|layout")
TEXTS = re.compile(r"(negative_)?prompt(_\d)?")


def draw_anew(judge: Method, run: Run, arguments: Arguments, stopped: Callable[[], bool]) -> tuple[Any, ControlRecord]:
    """What a run gives and its record, with every image the best of as many pictures as the judge asks for.

    A further picture takes the next noise of its image's generator; given latents are put into another order.

    Args:
        judge: The part of the control that judges.
        run: One run of the pipeline with such arguments.
        arguments: Those of the call by name, the control's `subjects` and `layout` among them.
        stopped: Whether the last run was interrupted.

    Raises:
        ValueError: For pictures among the arguments, one for each prompt.
    """
    _check_pictures(judge, arguments)
    output, record = run(arguments)
    images = record.images
    for image in images:
        image.tries = _judged(image, judge)
    for number in range(1, judge.pictures[1]):
        rows = [row for row, image in enumerate(images) if image.tries and not judge.accepts(min(image.tries))]
        if not rows or stopped():
            break
        again, found = run(of_rows(arguments, rows, len(images), number))
        better: dict[int, int] = {}
        for place, (row, new) in enumerate(zip(rows, found.images, strict=True)):
            earlier, now = images[row].tries, _judged(new, judge)
            images[row].tries = new.tries = earlier + now
            if now and now[0] < min(earlier):
                images[row], better[row] = new, place
        output = _replaced(output, again, better)
    return output, record


def of_rows(arguments: Arguments, rows: Sequence[int], images: int, number: int) -> dict[str, Any]:
    """The arguments of a call for some of its images alone, one for each of their prompts.

    Args:
        arguments: Of the call for all.
        rows: The images wanted.
        images: How many there are.
        number: Of the try, from 1, which decides the order of given latents.
    """
    prompts = _prompts(arguments)
    single = prompts == 1 and not isinstance(arguments.get("prompt"), list)
    texts = arguments.get("prompt") is not None
    owners = [row * prompts // images for row in rows]

    def picked(name: str, value: Any) -> Any:
        if name == "generator" and isinstance(value, list):
            return [value[row] for row in rows]
        if name == "latents":
            return reordered(value[rows], number)
        if not OF_PROMPTS.fullmatch(name) or (name == "layout" and value == "auto"):
            return value
        if isinstance(value, Tensor):
            return value[owners] if len(value) == prompts else value
        if single:  # of one prompt that is no list, subjects and boxes are none either
            is_list = isinstance(value, str) if TEXTS.fullmatch(name) else texts or len(rows) > 1
            return [value] * len(rows) if is_list else value
        return [value[owner] for owner in owners] if isinstance(value, list) else value

    chosen = {name: None if value is None else picked(name, value) for name, value in arguments.items()}
    return {**chosen, "num_images_per_prompt": 1} if "num_images_per_prompt" in chosen else chosen


def _prompts(arguments: Arguments) -> int:
    prompt, embeds = arguments.get("prompt"), arguments.get("prompt_embeds")
    if prompt is None:
        return 1 if embeds is None else len(embeds)
    return len(prompt) if isinstance(prompt, list) else 1


def _check_pictures(judge: Method, arguments: Arguments) -> None:
    many = _prompts(arguments) > 1
    for name, value in arguments.items():
        if many and "image" in name and isinstance(value, list | tuple | Tensor | np.ndarray):
            raise ValueError(
                f"{judge.name} draws some images anew and cannot tell which pictures of {name} are theirs: call the "
                "pipeline for one prompt at a time, or leave it out"
            )


def _judged(image: ImageRecord, judge: Method) -> list[float]:
    """What the judge said last of an image, a loss that is no number as infinity; empty if it said nothing."""
    losses = [step.losses[judge.name][-1] for step in image.steps if judge.name in step.losses]
    return [math.inf if math.isnan(loss) else loss for loss in losses[-1:]]


def _replaced(output: Any, again: Any, better: Mapping[int, int]) -> Any:
    """The output with some rows of everything in it taken from another one."""
    if isinstance(output, tuple):
        return tuple(_with_rows(*pair, better) for pair in zip(output, again, strict=True))
    for name, value in output.items():
        output[name] = _with_rows(value, again[name], better)
    return output


def _with_rows(values: Any, others: Any, better: Mapping[int, int]) -> Any:
    if not isinstance(values, list | Tensor | np.ndarray):
        return values
    values = values.clone() if isinstance(values, Tensor) else values.copy()
    for row, place in better.items():
        values[row] = others[place]
    return values
