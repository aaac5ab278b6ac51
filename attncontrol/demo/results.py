"""The right-hand side of the Generate tab: images, attention, loss, and the recipe of the selected image."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from attncontrol.arguments import slug
from attncontrol.demo import pictures, recipes
from attncontrol.demo.job_panel import QUIET
from attncontrol.demo.loss_plot import loss_plot
from attncontrol.demo.task import Pair
from attncontrol.demo.widgets import boxes_of
from attncontrol.images.drawing import Drawn
from attncontrol.images.recipe import save_image
from attncontrol.images.visualize import enlarge
from attncontrol.losses.combining import control_name, resolve_control

SLIDER_SIDE = 512


@dataclass(frozen=True)
class Shown:
    """One visitor's last result: its pairs and the PNG file of every image, plain and controlled in turn."""

    pairs: tuple[Pair, ...]
    files: tuple[str, ...]

    @property
    def images(self) -> list[Drawn]:
        """All images in the order of the gallery."""
        return [drawn for pair in self.pairs for drawn in (pair.plain, pair.controlled) if drawn]

    def pair_of(self, index: int) -> Pair:
        """The pair that the image of this number belongs to."""
        return self.pairs[index // (len(self.images) // len(self.pairs))]


def save(pairs: Sequence[Pair]) -> Shown:
    """Writes every image as PNG with its recipe, into a folder of its own that the server may hand out."""
    folder = Path(tempfile.mkdtemp(prefix="attncontrol-"))
    shown = Shown(tuple(pairs), ())
    files = []
    for drawn in shown.images:
        control = control_name(resolve_control(list(drawn.recipe.control)))
        path = folder / f"{slug(drawn.recipe.prompt)}_{slug(control)}_{drawn.recipe.seed}.png"
        save_image(drawn.image, path, drawn.recipe)
        files.append(str(path))
    return Shown(tuple(pairs), tuple(files))


class Results:
    """The components, and what they show."""

    def __init__(self) -> None:
        self.shown = gr.State(None, time_to_live=24 * 3600)
        self.selected = gr.State(0)
        with gr.Tabs(elem_id="result-tabs"):
            with gr.Tab("Images"):
                self.slider = gr.ImageSlider(
                    label="Left: plain, right: with control",
                    elem_id="before-after",
                    interactive=False,
                    visible=False,
                    buttons=["fullscreen"],
                    max_height=SLIDER_SIDE,
                )
                self.single = gr.HTML(elem_id="boxed")
                self.gallery = gr.Gallery(
                    label="All images (select one to see its attention and recipe)",
                    elem_id="gallery",
                    columns=4,
                    height="auto",
                    object_fit="contain",
                    interactive=False,
                    allow_preview=False,
                    visible=False,
                )
            with gr.Tab("Attention"):
                self.step = gr.Slider(
                    0, 1, 0, step=1, label="Sampling step (0 is the mean of all)", elem_id="map-step", visible=False
                )
                self.maps = gr.HTML(pictures.notice("Attention maps appear here."), elem_id="maps")
                self.loss = gr.HTML(elem_id="loss")
            with gr.Tab("Recipe"):
                self.download = gr.DownloadButton(
                    "Download PNG with its recipe inside", elem_id="download", interactive=False
                )
                code = {"interactive": False, "wrap_lines": True}
                self.python = gr.Code(label="Python", language="python", elem_id="as-python", **code)
                self.command = gr.Code(label="Command line", language="shell", elem_id="as-command", **code)
        every = {**QUIET, "trigger_mode": "multiple"}  # what was selected is in the event
        self.gallery.select(self._select, self.shown, [self.selected, *self._all], **every)
        self.step.change(self._change_step, [self.shown, self.selected, self.step], self.maps, **QUIET)

    @property
    def _all(self) -> list[Any]:
        return [
            *(self.slider, self.single, self.step, self.maps, self.loss),
            *(self.download, self.python, self.command),
        ]

    @property
    def outputs(self) -> list[Any]:
        """What a new result changes."""
        return [self.shown, self.selected, self.gallery, *self._all]

    def show(self, pairs: Sequence[Pair]) -> dict[Any, Any]:
        """Updates for a new result, its last image selected."""
        shown = save(pairs)
        items = [
            (file, f"seed {drawn.recipe.seed}, {'control' if drawn.recipe.control else 'plain'}")
            for file, drawn in zip(shown.files, shown.images, strict=True)
        ]
        index = 1 if pairs[0].controlled else 0
        return {
            self.shown: shown,
            self.selected: index,
            self.gallery: gr.Gallery(items, visible=len(items) > 1),
            **dict(zip(self._all, self._details(shown, index), strict=True)),
        }

    def _select(self, shown: Shown | None, event: gr.SelectData) -> list[Any]:
        if shown is None or not 0 <= event.index < len(shown.images):
            return [gr.skip()] * (1 + len(self._all))
        return [event.index, *self._details(shown, event.index)]

    def _details(self, shown: Shown, index: int) -> list[Any]:
        pair, drawn = shown.pair_of(index), shown.images[index]
        steps = drawn.recipe.steps
        sides = (pair.plain, pair.controlled)
        slider = tuple(enlarge(side.image, SLIDER_SIDE) for side in sides) if pair.controlled else None
        boxes = boxes_of(drawn.recipe.layout) if drawn.recipe.control else []
        alone = pictures.boxes_over(drawn.image, boxes) if boxes or not pair.controlled else ""
        recipe = drawn.recipe
        return [
            gr.ImageSlider(slider, visible=slider is not None),
            alone,
            gr.Slider(maximum=steps, value=0, visible=True),
            pictures.attention(pair, 0),
            loss_plot(pair.result.record),
            gr.DownloadButton(value=shown.files[index], interactive=True),
            recipes.as_python(recipe),
            recipes.as_command(recipe),
        ]

    def _change_step(self, shown: Shown | None, index: int, step: float) -> str:
        return "" if shown is None else pictures.attention(shown.pair_of(index), int(step))
