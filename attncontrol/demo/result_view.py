"""A result as the page shows it: pictures side by side, verdicts, attention, boxes and the recipe, as plain JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image

from attncontrol.arguments import slug
from attncontrol.demo import recipes, verdicts
from attncontrol.demo.loss_plot import loss_plot
from attncontrol.demo.studio import Progress
from attncontrol.demo.task import Pair
from attncontrol.demo.widgets import boxes_of, widget
from attncontrol.guidance.record import ImageRecord
from attncontrol.images.recipe import Recipe, save_image
from attncontrol.images.visualize import HEAT, enlarge, subject_maps
from attncontrol.losses.combining import control_name, resolve_control

SHOWN_SIDE = 320  # smaller pictures are enlarged here, more smoothly than browsers do
LARGEST_MAP = 32  # pixels a side: the page enlarges maps smoothly anyway
TITLES = ("without control", "with control")


@dataclass(frozen=True)
class Sheet:
    """The attention maps of a result as one grey image, to be sent or kept.

    A row of tiles per side and word, sides first; tile 0 is the mean over all steps, tile n is step n. `peaks` holds,
    per word, the value that is white in tile 0 and the one in the others, the same for both sides.
    """

    image: Image.Image
    words: list[str]
    peaks: list[list[float]]
    steps: int

    def shown(self) -> dict[str, Any]:
        """As the page takes it."""
        return {"image": data_url(self.image), "words": self.words, "peaks": self.peaks, "steps": self.steps}


def sheet_of(records: Sequence[ImageRecord | None]) -> Sheet | None:
    """The maps of the sides of a result, None where none were recorded."""
    if any(record is None or record.maps is None or not record.maps.numel() for record in records):
        return None
    maps = torch.stack([record.maps.movedim(1, 0).float() for record in records])
    return sheet_of_maps(list(subject_maps(records[0])), maps)


def sheet_of_maps(words: list[str], maps: torch.Tensor) -> Sheet:
    """The maps [sides, words, steps, height, width] of these words."""
    if max(maps.shape[-2:]) > LARGEST_MAP:
        small = [max(1, round(side * LARGEST_MAP / max(maps.shape[-2:]))) for side in maps.shape[-2:]]
        maps = torch.nn.functional.adaptive_avg_pool2d(maps.flatten(0, 2), small).unflatten(0, maps.shape[:3])
    mean = maps.mean(2, keepdim=True)
    peaks = torch.stack([part.amax((0, 2, 3, 4)) for part in (mean, maps)], 1)
    scaled = torch.cat([part / peaks[None, :, i, None, None, None] for i, part in enumerate((mean, maps))], 2)
    tiles = scaled.nan_to_num().clamp(0, 1).mul(255).round().byte()
    rows = tiles.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(0, 2)
    return Sheet(Image.fromarray(np.asarray(rows)), words, peaks.tolist(), maps.shape[2])


def view_of(model: str, pair: Pair) -> dict[str, Any]:
    """What the page shows of a pair that was drawn."""
    drawn = [side for side in (pair.plain, pair.controlled) if side]
    boxes = boxes_of(pair.result.recipe.layout)
    found = [verdicts.states(model, side.recipe.prompt, side.image, boxes) for side in drawn]
    sheet = sheet_of([side.record for side in drawn])
    sides = [(side.image, side.recipe, states) for side, states in zip(drawn, found, strict=True)]
    return view(sides, sheet, loss_plot(pair.result.record))


def view(
    sides: Sequence[tuple[Image.Image, Recipe, verdicts.States]], sheet: Sheet | None, loss: str = ""
) -> dict[str, Any]:
    """The value of one result, without control first; `loss` is an SVG."""
    image, recipe, _ = sides[-1]
    found = [states for _, _, states in sides]
    return {
        "prompt": recipe.prompt,
        "seed": recipe.seed,
        "method": control_name(resolve_control(list(recipe.control))),
        "sentence": verdicts.sentence(*found),
        "aspect": image.width / image.height,
        "sides": [_side(title, *side) for title, side in zip(TITLES, sides, strict=False)],
        "changes": [[name, before, after] for (name, before), (_, after) in zip(*found, strict=True)]
        if len(sides) > 1
        else [],
        "boxes": boxes_of(recipe.layout),
        "maps": None if sheet is None else sheet.shown(),
        "loss": loss,
    }


def _side(title: str, image: Image.Image, recipe: Recipe, states: verdicts.States) -> dict[str, Any]:
    with TemporaryDirectory(prefix="attncontrol-") as folder:
        control = control_name(resolve_control(list(recipe.control)))
        path = Path(folder) / f"{slug(recipe.prompt)}_{slug(control)}_{recipe.seed}.png"
        save_image(image, path, recipe)
        data = base64.b64encode(path.read_bytes()).decode()
    return {
        "title": title,
        "image": f"data:image/png;base64,{data}",
        "shown": data_url(enlarge(image, SHOWN_SIDE), "WEBP") if max(image.size) < SHOWN_SIDE else "",
        "file": path.name,
        "things": states,
        "python": recipes.as_python(recipe),
        "command": recipes.as_command(recipe),
    }


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    """An image as a URL that holds it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def live(progress: Progress, controlled: bool) -> dict[str, Any]:
    """The value while a result is being drawn: the picture that the model predicts so far, and where it looks."""
    titles = list(TITLES[: 2 if controlled else 1])
    side = titles.index(TITLES[0] if progress.what.endswith("plain") else TITLES[-1])
    picture = data_url(enlarge(progress.preview.picture, SHOWN_SIDE), "WEBP")
    maps = [[word, data_url(image)] for word, image in progress.preview.attention.items()]
    return {"live": {"titles": titles, "side": side, "image": picture, "maps": maps}}


def component(first: dict[str, Any] | None) -> gr.HTML:
    """The component, with a result to begin with. Its value is {"results": [view, ...]} or what `live` makes."""
    value = {"results": [first] if first else [], "stored": True}
    return widget("result-view", value, heat=[list(colour) for colour in HEAT])
