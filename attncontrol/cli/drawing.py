"""Loading a pipeline and making images with it, one at a time, for the commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attncontrol.cli.errors import option
from attncontrol.imagefile import Recipe, recipe_of
from attncontrol.losses import MethodSum
from attncontrol.record import ImageRecord

console = Console(stderr=True)


@dataclass(frozen=True)
class Request:
    """What all images of a command have in common; `layout` is a file or "auto", `layout_json` what it says."""

    model: str
    prompt: str
    negative_prompt: str
    steps: int
    guidance_scale: float
    width: int | None
    height: int | None
    subjects: list[Any] | None = None
    layout: str | None = None
    layout_json: Any = None
    maps: bool = False


@dataclass(frozen=True)
class Drawn:
    image: Image.Image
    record: ImageRecord | None
    recipe: Recipe


def load_pipeline(model: str, device: str, dtype: str) -> Any:
    """The controlled pipeline on a device. Raises ValueError that names the option at fault."""
    import diffusers
    import torch
    import transformers

    from attncontrol import AttentionControlPipeline

    for package in (diffusers, transformers):
        package.utils.logging.disable_progress_bar()
    with option("--device"):
        check_device(device)
    with option("--model"), console.status(f"loading {model}"):
        pipe = AttentionControlPipeline.from_pretrained(model, torch_dtype=getattr(torch, dtype))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def check_device(name: str) -> None:
    """Raises ValueError for a device torch does not know or that this machine lacks."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name!r} cannot be used here; cpu always can ({reason})") from error


def draw(pipe: Any, request: Request, methods: MethodSum, seed: int, on_step: Callable[[], Any]) -> Drawn:
    """One image. It depends on the request, the methods and the seed alone: every image has a call of its own."""
    import torch

    out = pipe(
        request.prompt,
        negative_prompt=request.negative_prompt or None,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        width=request.width,
        height=request.height,
        control=methods if methods.parts else None,
        subjects=request.subjects,
        layout=request.layout,
        record_maps=request.maps,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=lambda _pipe, _index, _timestep, tensors: (on_step(), tensors)[1],
    )
    record = out.control.images[0] if out.control else None
    recipe = recipe_of(
        pipe,
        out.images[0],
        model=request.model,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=seed,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        control=methods,
        record=record,
        layout=request.layout_json,
    )
    return Drawn(out.images[0], record, recipe)


@contextmanager
def step_progress(images: int, steps: int) -> Iterator[Callable[[], None]]:
    """A bar over all steps of all images on a terminal; yields the function to call after each step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{images} image{'s' if images > 1 else ''}", total=images * steps)
        yield lambda: progress.advance(task)


def slug(text: str, length: int = 60) -> str:
    """A file name part made of a text: lower-case Latin letters, digits, '+', '.', '*' as 'x', the rest as '-'."""
    plain = re.sub(r"[^a-z0-9+.]+", "-", text.lower().replace("*", "x").replace(" + ", "+"))
    return plain[:length].strip("-.") or "image"


def check_targets(paths: list[Path], overwrite: bool) -> None:
    """Raises ValueError before any work is done if a result could not be written."""
    for path in paths:
        if path.exists() and not overwrite:
            raise ValueError(f"{str(path)!r} is already there: give --overwrite, or another --output or seed")
