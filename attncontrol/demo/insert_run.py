"""One insertion of the tab Edit on FLUX: read and checked before anything is drawn, made, and shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attncontrol.arguments import LARGEST_SEED
from attncontrol.demo import before_after
from attncontrol.demo.result_view import sheet_of_maps
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Progress, Report, Studio
from attncontrol.demo.task import field, number, read_text, whole_number
from attncontrol.insertion.arguments import check_model, flux_family, read_call, read_settings, read_target


@dataclass(frozen=True)
class InsertTask:
    """An insertion that can be made; `picture` has the model's size, None if the scene is drawn."""

    prompt: str
    thing: str
    to: str
    seed: int
    steps: int
    guidance_scale: float
    picture: Image.Image | None = None

    @property
    def how(self) -> dict[str, Any]:
        """The arguments of `insert` besides the source and the thing."""
        sampling = {"num_inference_steps": self.steps, "guidance_scale": self.guidance_scale}
        return {"prompt_target": self.to, "seed": self.seed, **sampling}

    @property
    def facts(self) -> dict[str, Any]:
        """What a picture carries of how it was made."""
        return {"prompt": self.prompt, "thing": self.thing, **self.how}


@dataclass(frozen=True)
class Inserted:
    """Both pictures, and where the new one is its own, [height, width] in tokens, None if nothing says so."""

    pictures: tuple[Image.Image, Image.Image]
    mask: Tensor | None


def can_insert(pipe: Any) -> bool:
    """Whether Add-it works on this pipeline."""
    try:
        flux_family(pipe)
    except ValueError:
        return False
    return True


def read_insertion(
    studio: Studio,
    limits: Limits,
    *,
    prompt: Any,
    thing: Any,
    to: Any,
    picture: str | Path | bytes | None,
    seed: Any,
    steps: Any,
    guidance_scale: Any,
) -> InsertTask:
    """A checked insertion. Raises FieldError that names the field at fault, before anything is drawn."""
    before = read_text("prompt", prompt, limits, needed=True)
    new, after = read_text("thing", thing, limits), read_text("to", to, limits)
    with field("thing"):
        read_target(before, new, None)
    with field("to"):
        after = read_target(before, new, after or None)
        call = read_call(studio.pipe, dict.fromkeys(("max_sequence_length", "num_inference_steps", "guidance_scale",
                                                     "height", "width")))  # fmt: skip
        check_model(flux_family(studio.pipe), (before, after), call["max_sequence_length"])
    task = InsertTask(
        before,
        new,
        after,
        whole_number("seed", seed, 0, LARGEST_SEED),
        whole_number("steps", steps, 1, limits.steps),
        number("guidance_scale", guidance_scale, 0, 100),
    )
    with field("steps"):
        read_settings(studio.pipe, None, picture is not None).plan(task.steps)
    return task if picture is None else replace(task, picture=before_after.open_picture(studio, picture))


def make_insertion(studio: Studio, task: InsertTask, report: Report) -> Inserted:
    """Draws or inverts the scene and inserts; reports `Progress` after every call of the model."""

    def on_step(done: int, total: int) -> None:
        report(Progress(min(done, total), total, "before and after"))

    scene = {"source": task.prompt} if task.picture is None else {"source": task.picture, "prompt": task.prompt}
    with field("thing"):
        found = studio.pipe.insert(**scene, thing=task.thing, **task.how, on_step=on_step)
    return Inserted((found.sources[0], found.images[0]), found.mask)


def view_of(studio: Studio, task: InsertTask, made: Inserted) -> dict[str, Any]:
    """The insertion as widgets/result-view.js shows a result; in place of attention the mask of the new thing."""
    sheet = None
    if made.mask is not None:
        mask = made.mask.float().cpu()
        sheet = sheet_of_maps([task.thing], torch.stack([torch.zeros_like(mask), mask])[:, None, None])
    programs = (as_python(studio, task), as_command(studio, task))
    what = f"+ {task.thing}"
    view = before_after.view(studio, task, made.pictures, programs, method=what, what=what, maps=sheet)
    return {**view, "mask": True}


def as_python(studio: Studio, task: InsertTask) -> str:
    """A program that makes both pictures; a visitor's is "picture.png" in it."""
    scene = [repr(task.prompt), repr(task.thing)]
    if task.picture is not None:
        scene = ["'picture.png'", repr(task.thing), f"prompt={task.prompt!r}"]
    return before_after.program(studio, "insert", [*scene, *(f"{name}={value!r}" for name, value in task.how.items())])


def as_command(studio: Studio, task: InsertTask) -> str:
    """The command line that makes both pictures."""
    words = ["--prompt", task.prompt, "--thing", task.thing, "--to", task.to, "--seed", str(task.seed)]
    words += ["--steps", str(task.steps), "--guidance-scale", repr(task.guidance_scale)]
    return before_after.command(studio, task, "insert", words)
