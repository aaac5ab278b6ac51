"""Making images with a pipeline, one at a time, each with its recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from attncontrol.guidance.cost import Memory
from attncontrol.guidance.looking import MapSettings
from attncontrol.guidance.record import ImageRecord
from attncontrol.images.recipe import Recipe, recipe_of
from attncontrol.images.sampling import Sampling
from attncontrol.losses import MethodSum
from attncontrol.models import default_call


@dataclass(frozen=True)
class Request:
    """What several images have in common.

    `layout` is as the pipeline takes it, `layout_json` what it says; `grounding` are the settings of one.
    """

    model: str
    prompt: str
    sampling: Sampling
    subjects: list[Any] | None = None
    layout: Any = None
    layout_json: Any = None
    maps: bool | MapSettings = False
    memory: Memory = "auto"
    grounding: dict[str, Any] | None = None


@dataclass(frozen=True)
class Drawn:
    """An image, what was guided (None for plain sampling without maps), and how it was made."""

    image: Image.Image
    record: ImageRecord | None
    recipe: Recipe


def draw(pipe: Any, request: Request, methods: MethodSum, seed: int, on_step: Callable[[int], Any]) -> Drawn:
    """One image. It depends on the request, the methods and the seed alone: every image has a call of its own.

    on_step is called after every sampling step, with how many more there will be than was known before: those of a
    further picture, where a method wants one.
    """
    steps, begun = request.sampling.steps, 0

    def step_end(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal begun
        begun += index == 0
        on_step(steps if index == 0 and begun > 1 else 0)
        return tensors

    out = pipe(
        request.prompt,
        negative_prompt=request.sampling.negative_prompt or None,
        **default_call(request.model) | request.sampling.arguments(),
        control=methods if methods.parts else None,
        subjects=request.subjects,
        layout=request.layout,
        grounding=request.grounding,
        record_maps=request.maps,
        memory=request.memory,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=step_end,
    )
    record = out.control.images[0] if out.control else None
    recipe = recipe_of(
        pipe,
        out.images[0],
        model=request.model,
        prompt=request.prompt,
        sampling=request.sampling,
        seed=seed,
        control=methods,
        record=record,
        layout=request.layout_json,
        grounding=request.grounding,
    )
    return Drawn(out.images[0], record, recipe)
