"""The tab Edit on FLUX: a new thing is put into a scene, drawn or the visitor's own, and the rest is kept (Add-it)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from attncontrol.demo import pictures
from attncontrol.demo.before_after import open_picture
from attncontrol.demo.insert_run import Inserted, make_insertion, read_insertion, view_of
from attncontrol.demo.job_panel import PRIVATE, QUIET, JobPanel
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Studio
from attncontrol.demo.task import FieldError
from attncontrol.demo.widgets import widget
from attncontrol.images.visualize import HEAT
from attncontrol.insertion.arguments import CALL
from attncontrol.models import DEFAULT_UNET, default_call

KIND = "edit"
OTHER_EDITS = (
    "Puts a new thing into a picture. To change words of its prompt instead, start the page with a Stable Diffusion: "
    f"<code>attncontrol demo --model {DEFAULT_UNET}</code>"
)
DRAWN, OWN = "drawn", "own"


class InsertTab:
    """The components of the tab, and their handlers."""

    def __init__(self, studio: Studio, limits: Limits) -> None:
        self.studio, self.limits = studio, limits
        self.job = JobPanel(studio, KIND)
        with gr.Column(elem_id="edit-page"):
            with gr.Column(elem_id="edit-ask"):
                gr.HTML(f"<p class='hint'>{OTHER_EDITS}</p>", elem_id="edit-other")
                self._scene()
                self.job.controls("Insert", "One seed, before and after, side by side.")
            with gr.Column(elem_id="edit-answer"):
                self.result = widget(
                    "result-view", {"results": []}, elem_id="edit-result", heat=[list(colour) for colour in HEAT],
                    store="attncontrol-insertions", hint="The picture before and after appears here.",
                )  # fmt: skip
            with gr.Column(elem_id="edit-form"):
                self._sampling()
        fields = self.job.fields
        fields["source"].change(lambda chosen: gr.Column(visible=chosen == OWN), fields["source"], self.own, **QUIET)
        shown = [self.preview, self.job.errors["picture"]]
        fields["picture"].upload(self._uploaded, fields["picture"], shown, **QUIET)
        fields["picture"].clear(lambda: "", None, self.preview, **QUIET)
        fields["thing"].submit(None, js="() => document.getElementById('edit').click()", **PRIVATE)
        self.job.connect(self._insert, [self.result])

    def _scene(self) -> None:
        choices = [("drawn from a seed", DRAWN), ("my own", OWN)]
        self.job.field("source", gr.Radio(choices, value=DRAWN, label="The picture", elem_id="edit-source"))
        with gr.Column(visible=False) as self.own:
            label = f"PNG, JPEG or WebP (at most {self.limits.upload_mb} MB)"
            file = gr.File(label=label, type="filepath", height=120, elem_id="edit-file")
            self.job.field("picture", file)
            self.preview = gr.HTML(elem_id="edit-preview")
        self.job.field("prompt", gr.Textbox("a red car", label="What it shows", max_lines=4, elem_id="edit-prompt"))
        self.job.field("thing", gr.Textbox("a cat", label="What to insert", elem_id="edit-thing"))

    def _sampling(self) -> None:
        label = "What it should show then; if this is empty: both, joined by “and”"
        self.job.field("to", gr.Textbox(label=label, max_lines=4, elem_id="edit-to"))
        known = {**CALL, **default_call(self.studio.model)}
        with gr.Row():
            self.job.field("seed", gr.Textbox("3", label="Seed", elem_id="edit-seed"))
            steps = min(known["num_inference_steps"], self.limits.steps)
            self.job.field("steps", gr.Number(steps, label="Steps", elem_id="edit-steps"))
            self.job.field("guidance_scale", gr.Number(known["guidance_scale"], label="Guidance scale"))

    def _uploaded(self, path: str | None) -> dict[Any, Any]:
        error = self.job.errors["picture"]
        if path is None:
            return {self.preview: gr.skip()}
        try:
            image = open_picture(self.studio, path)
        except FieldError as wrong:
            return {error: gr.HTML(pictures.error(str(wrong)), visible=True)}
        shown = pictures.figure(image, "the picture as the model takes it", "", 128)
        return {self.preview: shown, error: gr.HTML("", visible=False)}

    def _insert(self, values: dict[str, Any], session: str) -> Iterator[Any]:
        own = values.pop("source") == OWN
        if own and values["picture"] is None:
            raise FieldError("picture", "choose a picture.")
        task = read_insertion(self.studio, self.limits, **{**values, "picture": values["picture"] if own else None})
        for report in self.studio.run(session, KIND, partial(make_insertion, self.studio, task)):
            if isinstance(report, Inserted):
                yield {**self.job.tell("Done."), self.result: {"results": [view_of(self.studio, task, report)]}}
            else:
                yield report
