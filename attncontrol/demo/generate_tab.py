"""The Generate tab: prompt, subjects, method, layout and sampling on the left, results on the right."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from attncontrol.arguments import DEFAULT_CONTROL, PLAIN
from attncontrol.demo import examples, pictures, recipes
from attncontrol.demo.job_panel import PRIVATE, QUIET, JobPanel
from attncontrol.demo.results import Results
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Studio
from attncontrol.demo.task import FieldError, check, field, make_pairs, read_request, read_task
from attncontrol.demo.widgets import (
    boxes_of,
    edited_subjects,
    empty_layout,
    layout_of,
    settings_form,
    widget,
    word_groups,
)
from attncontrol.images.recipe import read_recipe
from attncontrol.layout import automatic_layout
from attncontrol.losses import MethodSum, method_classes
from attncontrol.models import default_guidance_scale
from attncontrol.prompt import structure_of

KIND = "generate"
FIRST_PROMPT = "a cat and a frog"
SAMPLING_FIELDS = ("steps", "guidance_scale", "negative_prompt", "width", "height")


class GenerateTab:
    """The components of the tab, and their handlers."""

    def __init__(self, studio: Studio, limits: Limits) -> None:
        self.studio, self.limits = studio, limits
        self.job = JobPanel(studio, KIND)
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=5, min_width=300):
                self._prompt_and_subjects()
                self._method()
                self._layout()
                self._sampling()
                self.restore = gr.File(
                    label="Restore settings: drop a PNG made here",
                    type="filepath",
                    height=170,
                    elem_id="restore",
                )
                self.job.error_slot("restore")
            with gr.Column(scale=6, min_width=300):
                self.job.controls("Generate", "Press Generate: the same seed is drawn without and with control.")
                self.results = Results()
                self.examples = examples.table()
        self._events()

    def _prompt_and_subjects(self) -> None:
        self.job.field(
            "prompt",
            gr.Textbox(FIRST_PROMPT, label="Prompt", lines=2, max_lines=6, elem_id="prompt", autofocus=True),
        )
        groups = word_groups(self.studio, FIRST_PROMPT, structure_of(FIRST_PROMPT, self.studio.tokenizer))
        self.job.field("subjects", widget("subject-words", groups))

    def _method(self) -> None:
        classes = method_classes()
        choices = [*classes, ("none (plain sampling)", PLAIN)]
        self.job.field("method", gr.Dropdown(choices, value=DEFAULT_CONTROL, label="Method", elem_id="method"))
        self.about = gr.HTML(_about(DEFAULT_CONTROL), elem_id="about-method")
        with gr.Accordion("Settings of the method", open=False, elem_id="settings") as self.settings_part:
            self.job.field("settings", widget("settings-form", settings_form(self.studio, DEFAULT_CONTROL)))

    def _layout(self) -> None:
        with gr.Accordion("Layout", open=False, elem_id="layout") as self.layout_part:
            phrases = _phrases(self.job.fields["subjects"].value)
            self.job.field("layout", widget("layout-editor", {**empty_layout(), "phrases": phrases}))
            with gr.Row():
                self.automatic = gr.Button("Automatic", size="sm", elem_id="automatic-layout")
                self.clear = gr.Button("Clear", size="sm", elem_id="clear-layout")
            if self.studio.has_gates:
                choices = [("no", PLAIN), ("by GLIGEN", "gligen"), ("by ReGround", "reground")]
                told = gr.Radio(choices, value=PLAIN, label="Tell the model of the boxes", elem_id="grounding")
                self.job.field("grounding", told)

    def _sampling(self) -> None:
        limits, side = self.limits, self.studio.size
        with gr.Row(elem_classes="seed-row"):
            self.job.field("seed", gr.Textbox("0", label="Seed", min_width=120, elem_id="seed"))
            self.dice = gr.Button("⚄ Random", size="md", min_width=90, scale=0, elem_id="dice")
            self.job.field("images", gr.Number(1, label="Images", min_width=90, elem_id="images"))
        with gr.Accordion("Sampling", open=False, elem_id="sampling") as self.sampling_part:
            with gr.Row():
                self.job.field("steps", gr.Number(30, label=f"Steps (at most {limits.steps})", elem_id="steps"))
                scale = default_guidance_scale(self.studio.model)
                self.job.field("guidance_scale", gr.Number(scale, label="Guidance scale", elem_id="guidance"))
            with gr.Row():
                self.job.field("width", gr.Number(side, label="Width in pixels", elem_id="width"))
                self.job.field("height", gr.Number(side, label="Height in pixels", elem_id="height"))
            self.job.field("negative_prompt", gr.Textbox(label="Negative prompt", elem_id="negative-prompt"))

    def _events(self) -> None:
        fields, errors = self.job.fields, self.job.errors
        prompt, layout = fields["prompt"], fields["layout"]
        prompt.change(self._parse, [prompt, layout], [fields["subjects"], layout], **QUIET)
        prompt.submit(None, js="() => document.getElementById('generate').click()", **PRIVATE)
        methods = [self.about, fields["settings"], self.layout_part]
        fields["method"].input(self._choose_method, [fields["method"], fields["settings"]], methods, **QUIET)
        self.dice.click(lambda: str(secrets.randbelow(2**32)), None, fields["seed"], **QUIET)
        placed = [prompt, fields["subjects"], layout]
        self.automatic.click(self._automatic, placed, [layout, errors["layout"]], **QUIET)
        self.clear.click(lambda layout: {**layout, "boxes": []}, layout, layout, **QUIET)
        for side in ("width", "height"):
            fields[side].change(_reshape, [layout, fields["width"], fields["height"]], layout, **QUIET)
        self.job.parts = {"settings": self.settings_part, "layout": self.layout_part}
        self.job.parts |= dict.fromkeys(SAMPLING_FIELDS, self.sampling_part)
        self.job.connect(self._generate, self.results.outputs)
        restored = [*fields.values(), self.about, *errors.values(), self.layout_part, self.sampling_part]
        self.restore.upload(self._restore, [self.restore, layout], restored, **QUIET)
        shown = [*restored, self.results.slider, self.results.single]
        self.examples.click(self._load_example, [self.examples, layout], shown, **QUIET)

    def _parse(self, prompt: str, layout: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        text = (prompt or "").strip()[: self.limits.prompt_characters]
        groups = word_groups(self.studio, text, quiet_structure(self.studio, text)) if text else {"words": []}
        return {**groups, "typed": True}, {**layout, "phrases": _phrases(groups)}

    def _choose_method(self, method: str, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
        if settings["method"] == method:  # the browser tells of one choice twice
            return gr.skip(), gr.skip(), gr.skip()
        needs_layout = method != PLAIN and method_classes()[method].needs_layout
        opened = gr.Accordion(open=True) if needs_layout else gr.skip()
        return _about(method), settings_form(self.studio, method), opened

    def _automatic(self, prompt: str, subjects: Any, layout: dict[str, Any]) -> tuple[Any, Any]:
        try:
            with field("layout"):
                text = (prompt or "").strip()
                structure = quiet_structure(self.studio, text, edited_subjects(subjects, text))
                found = automatic_layout(structure)
        except FieldError as error:
            return gr.skip(), gr.HTML(pictures.error(str(error)), visible=True)
        boxes = [
            {"phrase": entity.text, "box": [round(v, 3) for v in box]}
            for entity, regions in zip(structure.entities, found.regions, strict=True)
            for box in regions
        ]
        return {**layout, "boxes": boxes}, gr.HTML("", visible=False)

    def _generate(self, values: dict[str, Any], session: str) -> Iterator[Any]:
        task = self._read(values)
        for report in self.studio.run(session, KIND, partial(make_pairs, self.studio, task)):
            if isinstance(report, list):
                yield {**self.job.tell(_summary(report)), **self.results.show(report)}
            else:
                yield report

    def _read(self, values: dict[str, Any]) -> Any:
        prompt = (values["prompt"] or "").strip()
        method = values["method"]
        needs_layout = method != PLAIN and method_classes()[method].needs_layout
        with field("layout"):
            grounded = values.get("grounding", PLAIN) != PLAIN
            layout = layout_of(values["layout"]) if needs_layout or grounded else None
        return read_task(
            self.studio,
            self.limits,
            **{name: value for name, value in values.items() if name not in ("settings", "subjects", "layout")},
            settings=values["settings"]["values"],
            subjects=edited_subjects(values["subjects"], prompt),
            layout=layout,
        )

    def _restore(self, path: str, layout: dict[str, Any]) -> dict[Any, Any]:
        try:
            with field("restore"):
                recipe = read_recipe(path)
                recipes.check_restorable(recipe, self.studio.model)
                part = dict(recipe.control[0]) if recipe.control else {"method": PLAIN}
                values = {
                    "prompt": recipe.prompt,
                    "method": part.pop("method"),
                    "settings": {k: v for k, v in part.items() if k != "weight"},
                    "subjects": recipes.subject_groups(recipe),
                    "layout": recipe.layout,
                    "grounding": recipes.grounding_name(recipe) or PLAIN,
                    "seed": recipe.seed,
                    **{
                        k: getattr(recipe, k)
                        for k in ("steps", "guidance_scale", "negative_prompt", "width", "height")
                    },
                }
                return self._fill(values, layout)
        except FieldError as error:
            message = str(error).replace(repr(path), "the file")
            return self.job.show_error(FieldError("restore", message))

    def _load_example(self, index: int, layout: dict[str, Any]) -> dict[Any, Any]:
        return {
            **self._fill(examples.values_of(index), layout),
            self.results.slider: gr.ImageSlider(visible=False),
            self.results.single: examples.before_and_after(index),
        }

    def _fill(self, values: dict[str, Any], layout: dict[str, Any]) -> dict[Any, Any]:
        """Updates that put these values into the fields; raises FieldError if they do not fit together."""
        prompt, method, given = values["prompt"], values["method"], values.get("subjects")
        boxes = values.get("layout")
        with field("restore"):
            structure = quiet_structure(self.studio, prompt, given)
            if boxes == "auto":
                found = automatic_layout(structure)
                pairs = zip(structure.entities, found.regions, strict=True)
                boxes = {entity.text: [list(box) for box in regions] for entity, regions in pairs}
            request = read_request(
                self.studio, self.limits, prompt, steps=values.get("steps", 30), guidance_scale=1, layout=boxes
            )
            check(self.studio, request, MethodSum())
        groups = word_groups(self.studio, prompt, structure)
        simple = ("prompt", "method", "steps", "guidance_scale", "negative_prompt", "width", "height", "grounding")
        needs_layout = method != PLAIN and method_classes()[method].needs_layout
        needs_layout |= values.get("grounding", PLAIN) != PLAIN
        return {
            **self.job.no_errors(),
            **{self.job.fields[name]: values[name] for name in simple if name in values and name in self.job.fields},
            self.job.fields["seed"]: str(values["seed"]),
            self.job.fields["images"]: 1,
            self.job.fields["settings"]: settings_form(self.studio, method, values.get("settings")),
            self.job.fields["subjects"]: groups,
            self.job.fields["layout"]: {**layout, "phrases": _phrases(groups), "boxes": boxes_of(boxes)},
            self.about: _about(method),
            self.layout_part: gr.Accordion(open=needs_layout),
            self.sampling_part: gr.Accordion(open="steps" in values),
        }


def quiet_structure(studio: Studio, prompt: str, subjects: Any = None) -> Any:
    """The structure of a prompt; what the text encoder cuts off is shown on the page, not warned of on the server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return structure_of(prompt, studio.tokenizer, subjects)


def _about(method: str) -> str:
    if method == PLAIN:
        return "<p>The stock pipeline, for comparison.</p>"
    cls = method_classes()[method]
    layout = " <b>Needs a layout.</b>" if cls.needs_layout else ""
    return f"<p>{cls.summary}{layout}</p><p class='paper'>{cls.paper}</p>"


def _phrases(groups: dict[str, Any]) -> list[str]:
    words = groups.get("words") or []
    return [
        " ".join(words[i]["text"] for i in sorted((*group["modifiers"], group["noun"])))
        for group in groups.get("groups", ())
    ]


def _reshape(layout: dict[str, Any], width: Any, height: Any) -> dict[str, Any]:
    usable = all(isinstance(side, int | float) and side > 0 for side in (width, height))
    return {**layout, "aspect": width / height if usable else 1.0}


def _summary(pairs: list[Any]) -> str:
    result = pairs[0].result
    subjects = ", ".join(subject["text"] for subject in result.recipe.subjects) or "no subjects found"
    moves = sum(pair.result.record.refinements for pair in pairs if pair.controlled)
    guided = f"; guided: {subjects}; {moves} refinement moves" if pairs[0].controlled else ""
    return f"Done: {len(pairs)} seed{'s' if len(pairs) > 1 else ''}{guided}."
