"""The Edit tab: a word of the prompt is changed, and the rest of the picture, drawn or the visitor's own, is kept."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from attncontrol.demo import pictures
from attncontrol.demo.before_after import open_picture
from attncontrol.demo.edit_run import Edited, Inversions, make_edit, read_edit, view_of, why_not_invert
from attncontrol.demo.job_panel import PRIVATE, QUIET, JobPanel
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Studio
from attncontrol.demo.task import FieldError
from attncontrol.demo.widgets import FOLDER, widget
from attncontrol.editing.alignment import align_prompts
from attncontrol.editing.arguments import unet_family
from attncontrol.images.recipe import Recipe, read_recipe
from attncontrol.images.visualize import HEAT
from attncontrol.models import default_guidance_scale, default_steps

KIND = "edit"
DRAWN, OWN = "drawn", "own"
FIRST = ("a red car and a cat", "a blue car and a cat", "3")
LAST_RESULT = (FOLDER / "last-result.js").read_text(encoding="utf-8")
URL = "data:image/png;base64,"
METHODS = {
    "quick and rough: DDIM": "ddim",
    "comes back: null text": "null-text",
    "learns the nouns too, slow: Dynamic Prompt Learning": "dpl",
}


class EditTab:
    """The components of the tab, and their handlers."""

    def __init__(self, studio: Studio, limits: Limits, result: Any) -> None:
        """result: the component of the tab Generate whose last picture can be taken."""
        self.studio, self.limits, self.inversions = studio, limits, Inversions()
        self.job = JobPanel(studio, KIND)
        with gr.Column(elem_id="edit-page"):
            with gr.Column(elem_id="edit-ask"):
                self._picture()
                self._prompts()
                self.job.controls("Edit", "One seed, before and after, side by side.")
            with gr.Column(elem_id="edit-answer"):
                self.result = widget(
                    "result-view", {"results": []}, elem_id="edit-result", heat=[list(colour) for colour in HEAT],
                    store="attncontrol-edits", hint="The picture before and after appears here.",
                )  # fmt: skip
            with gr.Column(elem_id="edit-form"):
                self._windows()
                self._sampling()
        self._events(result)

    def _picture(self) -> None:
        with gr.Row():
            choices = [("drawn from a seed", DRAWN), ("my own", OWN)]
            if why_not_invert(self.studio.pipe):
                choices = choices[:1]
            self.job.field("source", gr.Radio(choices, value=DRAWN, label="The picture", elem_id="edit-source"))
            self.take = gr.Button("Take the last result", size="sm", min_width=160, scale=0, elem_id="edit-take")
        with gr.Column(visible=False) as self.own:
            label = f"PNG, JPEG or WebP (at most {self.limits.upload_mb} MB)"
            file = gr.File(label=label, type="filepath", height=120, elem_id="edit-file")
            self.job.field("picture", file)
            self.preview = gr.HTML(elem_id="edit-preview")
        self.job.fields["taken"] = gr.Textbox(visible=False)  # a data URL that the browser keeps

    def _prompts(self) -> None:
        before, after, _ = FIRST
        self.job.field("prompt", gr.Textbox(before, label="What it shows", max_lines=4, elem_id="edit-prompt"))
        gr.HTML("<p class='hint'>Click a word to change it:</p>")
        self.words = widget("edit-words", {"prompt": before}, target="#edit-to textarea")
        self.job.field("to", gr.Textbox(after, label="What it should show", max_lines=4, elem_id="edit-to"))
        self.changes = gr.HTML(self._changes(before, after), elem_id="edit-changes")

    def _windows(self) -> None:
        gr.HTML("<p class='hint'>How long the picture before decides where things are, as a share of the steps:</p>")
        with gr.Row():
            slide: dict[str, Any] = {"minimum": 0, "maximum": 1, "step": 0.05, "min_width": 200}
            cross = gr.Slider(value=0.8, label="for the words (cross-attention)", elem_id="edit-cross", **slide)
            self.job.field("cross", cross)
            own = gr.Slider(value=0.4, label="for the shapes (self-attention)", elem_id="edit-self", **slide)
            self.job.field("self_attention", own)
        local = gr.Textbox(label="Change only where these words look, as in: car, cat", elem_id="edit-local")
        self.job.field("local", local)

    def _sampling(self) -> None:
        steps = min(default_steps(self.studio.model), self.limits.steps)
        with gr.Accordion("Seed and sampling", open=False, elem_id="edit-sampling") as part:
            with gr.Row():
                self.job.field("seed", gr.Textbox(FIRST[2], label="Seed of the drawn picture", elem_id="edit-seed"))
                self.job.field("steps", gr.Number(steps, label="Steps", elem_id="edit-steps"))
                scale = default_guidance_scale(self.studio.model)
                self.job.field("guidance_scale", gr.Number(scale, label="Guidance scale"))
            choices = list(METHODS.items())
            how = gr.Radio(choices, value="ddim", label="How my own picture is inverted", elem_id="edit-method")
            self.job.field("method", how)
        self.job.parts = dict.fromkeys(("seed", "steps", "guidance_scale", "method"), part)

    def _events(self, result: Any) -> None:
        fields, errors = self.job.fields, self.job.errors
        prompt, to, source, taken = (fields[name] for name in ("prompt", "to", "source", "taken"))
        prompt.change(self._prompt_changed, [prompt, to, self.words], [self.words, to, self.changes], **QUIET)
        to.change(self._changes, [prompt, to], self.changes, **QUIET)
        to.submit(None, js="() => document.getElementById('edit').click()", **PRIVATE)
        source.change(lambda chosen: gr.Column(visible=chosen == OWN), source, self.own, **QUIET)
        filled = [source, prompt, to, taken, self.preview, fields["seed"], fields["steps"], fields["guidance_scale"]]
        filled += [fields["picture"], errors["picture"], errors["source"]]
        fields["picture"].upload(self._uploaded, fields["picture"], filled, **QUIET)
        fields["picture"].clear(lambda: ("", ""), None, [taken, self.preview], **QUIET)
        self.take.click(self._take, result, filled, js=LAST_RESULT, **QUIET)
        self.job.connect(self._edit, [self.result])
        gr.context.Context.root_block.unload(self._leave)

    def _prompt_changed(self, prompt: str, to: str, words: dict[str, Any]) -> tuple[Any, Any, str]:
        """The words anew; a prompt after that nobody changed yet goes with the one before."""
        after = prompt if to.strip() in ("", words["prompt"].strip()) else to
        return {"prompt": prompt}, after, self._changes(prompt, after)

    def _changes(self, prompt: str, to: str) -> str:
        most = self.limits.prompt_characters
        if not prompt.strip() or not to.strip() or max(len(prompt), len(to)) > most:
            return ""
        family = unet_family(self.studio.pipe)
        try:
            found = align_prompts(prompt, to, family.tokenizer, family.text_length).changes
        except ValueError as error:
            return pictures.notice(str(error))
        text = ", ".join(change.text.replace("->", "→") for change in found)
        return pictures.notice(f"Changes: {text}" if text else "Both say the same so far.")

    def _uploaded(self, path: str | None) -> dict[Any, Any]:
        if path is None:
            return {self.preview: gr.skip()}
        return self._filled(path, "", "picture")

    def _take(self, url: Any) -> dict[Any, Any]:
        try:
            data = read_url(url, self.limits)
        except FieldError as error:
            return self._said(error, "source")
        return self._filled(data, url, "source")

    def _filled(self, picture: str | bytes, taken: str, at: str) -> dict[Any, Any]:
        """What a picture changes: one that was drawn here without control is drawn again, others are inverted."""
        fields, errors = self.job.fields, self.job.errors
        try:
            image = open_picture(self.studio, picture)
        except FieldError as error:
            return self._said(error, at)
        recipe = _recipe(picture)
        known = {} if recipe is None else {fields["prompt"]: recipe.prompt, fields["to"]: recipe.prompt}
        again = recipe is not None and self._can_draw_again(recipe)
        if recipe is not None and again:
            known |= {fields["seed"]: str(recipe.seed), fields["steps"]: recipe.steps}
            known |= {fields["guidance_scale"]: recipe.guidance_scale, fields["source"]: DRAWN}
        elif why := why_not_invert(self.studio.pipe):
            return self._said(FieldError("picture", f"{why}."), at)
        return {
            fields["source"]: OWN,
            fields["taken"]: "" if again else taken,
            **({fields["picture"]: None} if taken else {}),
            self.preview: pictures.figure(image, "the picture as the model takes it", "", 128),
            **{errors[name]: gr.HTML("", visible=False) for name in ("picture", "source")},
            **known,
        }

    def _can_draw_again(self, recipe: Recipe) -> bool:
        """Whether prompt, seed and sampling are all that a picture needs."""
        plain = not (recipe.control or recipe.grounding or recipe.negative_prompt)
        size = recipe.width == recipe.height == self.studio.size
        return plain and size and recipe.model == self.studio.model and recipe.steps <= self.limits.steps

    def _said(self, error: FieldError, at: str) -> dict[Any, Any]:
        return {self.job.errors[at]: gr.HTML(pictures.error(str(error)), visible=True)}

    def _edit(self, values: dict[str, Any], session: str) -> Iterator[Any]:
        source, taken, path = (values.pop(name) for name in ("source", "taken", "picture"))
        picture: Any = None
        if source == OWN:
            picture = path or (read_url(taken, self.limits, "picture") if taken else None)
            if picture is None:
                raise FieldError("picture", "choose a picture, or take the last result.")
        task = read_edit(self.studio, self.limits, picture=picture, **values)
        work = partial(make_edit, self.studio, task, self.inversions.path(session, task))
        for report in self.studio.run(session, KIND, work):
            if isinstance(report, Edited):
                yield {**self.job.tell("Done."), self.result: {"results": [view_of(self.studio, task, report)]}}
            else:
                yield report

    def _leave(self, request: gr.Request) -> None:
        self.inversions.forget(request.session_hash)


def read_url(url: Any, limits: Limits, name: str = "source") -> bytes:
    """The bytes of a PNG's data URL. Raises FieldError."""
    if not isinstance(url, str) or not url.startswith(URL):
        raise FieldError(name, "there is no result yet: draw one on the tab Generate.")
    if len(url) > limits.upload_mb * 2**20 * 4 / 3:
        raise FieldError(name, f"this result has more than {limits.upload_mb} MB.")
    try:
        return base64.b64decode(url.removeprefix(URL), validate=True)
    except binascii.Error:
        raise FieldError(name, "this result cannot be read.") from None


def _recipe(picture: str | bytes) -> Recipe | None:
    try:
        return read_recipe(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
    except ValueError:
        return None
