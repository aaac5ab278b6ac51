"""The Generate tab: examples, the prompt, the result, and whatever else decides on it."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from attncontrol.arguments import DEFAULT_CONTROL, PLAIN
from attncontrol.demo import address, examples, pictures, recipes, result_view
from attncontrol.demo.job_panel import PRIVATE, QUIET, JobPanel
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Progress, Studio
from attncontrol.demo.task import FieldError, check, field, make_pairs, needs_boxes, read_request, read_task
from attncontrol.demo.widgets import (
    boxes_of,
    carried_over,
    edited_subjects,
    empty_layout,
    layout_of,
    settings_form,
    widget,
    word_groups,
)
from attncontrol.demo.word_bank import word_bank
from attncontrol.images.recipe import read_recipe
from attncontrol.layout import automatic_layout
from attncontrol.losses import MethodSum, method_classes
from attncontrol.losses.combining import resolve_control
from attncontrol.losses.presets import PRESETS
from attncontrol.models import default_guidance_scale, default_steps
from attncontrol.prompt import structure_of

KIND = "generate"
SAMPLING_FIELDS = ("steps", "guidance_scale", "negative_prompt", "width", "height")
AIMS = {  # by docs/quality.md: what is best against each fault
    "Something is missing": DEFAULT_CONTROL,
    "Colours are mixed up": "auto",
    "Things are in the wrong place": "layout-guidance",
}


class GenerateTab:
    """The components of the tab, and their handlers."""

    def __init__(self, studio: Studio, limits: Limits) -> None:
        self.studio, self.limits = studio, limits
        self.job = JobPanel(studio, KIND)
        first = examples.opening(studio.model)
        with gr.Column(elem_id="studio"):
            with gr.Column(elem_id="examples"):
                self.cards = examples.cards(studio.model)
            with gr.Column(elem_id="ask"):
                self.job.field("prompt", gr.Textbox(first["prompt"], label="Prompt", max_lines=4, elem_id="prompt"))
                self.job.controls("Generate", "Press Enter: one seed, without and with control.")
            with gr.Column(elem_id="result"):
                self.result = result_view.component(examples.stored(studio.model))
            with gr.Column(elem_id="form"):
                self._subjects(first["prompt"])
                self._method()
                self._layout()
                self._sampling(first["seed"])
                self.restore = gr.File(
                    label="Restore settings: drop a PNG made here",
                    type="filepath",
                    height=160,
                    elem_id="restore",
                )
                self.job.error_slot("restore")
        self.query = gr.Textbox(visible=False)
        self._events()

    def _subjects(self, prompt: str) -> None:
        groups = word_groups(self.studio, prompt, structure_of(prompt, self.studio.tokenizer))
        self.job.field("subjects", widget("subject-words", groups))
        word_bank(self.studio.model, self.job.fields["prompt"])

    def _method(self) -> None:
        self.aim = gr.Radio(list(AIMS.items()), value=DEFAULT_CONTROL, label="What goes wrong?", elem_id="aim")
        self.about = gr.HTML(_about(self.studio, DEFAULT_CONTROL), elem_id="about-method")
        choices = [*method_classes(), *PRESETS, ("none (plain sampling)", PLAIN)]
        with gr.Accordion(
            "For researchers: method and settings", open=False, elem_id="settings"
        ) as self.settings_part:
            method = gr.Dropdown(
                choices,
                value=DEFAULT_CONTROL,
                label="Method, or a sum such as conform + 0.5*syngen",
                allow_custom_value=True,
                elem_id="method",
            )
            self.job.field("method", method)
            self.job.field("settings", widget("settings-form", settings_form(self.studio, DEFAULT_CONTROL)))

    def _layout(self) -> None:
        with gr.Accordion("Boxes: where things go", open=False, elem_id="layout") as self.layout_part:
            phrases = _phrases(self.job.fields["subjects"].value)
            self.job.field("layout", widget("layout-editor", {**empty_layout(), "phrases": phrases}))
            with gr.Row():
                self.automatic = gr.Button("Automatic", size="sm", elem_id="automatic-layout")
                self.clear = gr.Button("Clear", size="sm", elem_id="clear-layout")
            if self.studio.has_gates:
                choices = [("no", PLAIN), ("by GLIGEN", "gligen"), ("by ReGround", "reground")]
                told = gr.Radio(choices, value=PLAIN, label="Tell the model of the boxes", elem_id="grounding")
                self.job.field("grounding", told)

    def _sampling(self, seed: int) -> None:
        limits, side = self.limits, self.studio.size
        steps = min(default_steps(self.studio.model), limits.steps)
        with gr.Row(elem_classes="seed-row"):
            self.job.field("seed", gr.Textbox(str(seed), label="Seed", min_width=120, elem_id="seed"))
            self.dice = gr.Button("⚄ Random", size="md", min_width=90, scale=0, elem_id="dice")
            self.job.field("images", gr.Number(1, label="Images", min_width=90, elem_id="images"))
        with gr.Accordion("Sampling", open=False, elem_id="sampling") as self.sampling_part:
            with gr.Row():
                self.job.field("steps", gr.Number(steps, label=f"Steps (at most {limits.steps})", elem_id="steps"))
                scale = default_guidance_scale(self.studio.model)
                self.job.field("guidance_scale", gr.Number(scale, label="Guidance scale", elem_id="guidance"))
            with gr.Row():
                self.job.field("width", gr.Number(side, label="Width in pixels", elem_id="width"))
                self.job.field("height", gr.Number(side, label="Height in pixels", elem_id="height"))
            if self.studio.takes_negative_prompt:
                self.job.field("negative_prompt", gr.Textbox(label="Negative prompt", elem_id="negative-prompt"))

    def _events(self) -> None:
        fields, errors = self.job.fields, self.job.errors
        prompt, subjects, layout, method = (fields[name] for name in ("prompt", "subjects", "layout", "method"))
        prompt.change(self._parse, [prompt, subjects, layout], [subjects, layout], **QUIET)
        prompt.submit(None, js="() => document.getElementById('generate').click()", **PRIVATE)
        chosen = [method, self.aim, self.about, fields["settings"], layout, self.layout_part, errors["method"]]
        for choice in (self.aim, method):
            given = [choice, fields["settings"], prompt, subjects, layout]
            choice.input(self._choose_method, given, chosen, **QUIET)
        self.dice.click(lambda: str(secrets.randbelow(2**32)), None, fields["seed"], **QUIET)
        self.automatic.click(self._automatic, [prompt, subjects, layout], [layout, errors["layout"]], **QUIET)
        self.clear.click(lambda layout: {**layout, "boxes": []}, layout, layout, **QUIET)
        for side in ("width", "height"):
            fields[side].change(_reshape, [layout, fields["width"], fields["height"]], layout, **QUIET)
        self.job.parts = {"settings": self.settings_part, "method": self.settings_part, "layout": self.layout_part}
        self.job.parts |= dict.fromkeys(SAMPLING_FIELDS, self.sampling_part)
        self.job.connect(self._generate, [self.result])
        filled = [*fields.values(), self.aim, self.about, *errors.values(), self.layout_part, self.sampling_part]
        self.restore.upload(self._restore, [self.restore, layout], filled, **QUIET)
        self.cards.select(self._load_example, [self.cards, layout], [*filled, self.result], **QUIET)
        addressed = [prompt, method, fields["seed"], layout]
        gr.on([part.change for part in addressed], None, addressed, js=address.WRITE, **PRIVATE)
        opening = {"inputs": [self.query, layout], "outputs": filled, "js": address.READ}
        gr.context.Context.root_block.load(self._open, **opening, **QUIET)

    def _parse(self, prompt: str, subjects: Any, layout: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        text = (prompt or "").strip()[: self.limits.prompt_characters]
        groups = {"words": []}
        if text:
            groups = carried_over(subjects, word_groups(self.studio, text, quiet_structure(self.studio, text)))
        return {**groups, "typed": True}, {**layout, "phrases": _phrases(groups)}

    def _choose_method(
        self, method: str, settings: dict[str, Any], prompt: str, subjects: Any, layout: dict[str, Any]
    ) -> dict[Any, Any]:
        """What another method changes; one that needs boxes gets them where none are drawn."""
        fields, errors = self.job.fields, self.job.errors
        if settings["method"] == method:  # the browser tells of one choice twice
            return {fields["method"]: gr.skip()}
        try:
            with field("method"):
                form = settings_form(self.studio, method)
        except FieldError as error:
            return {errors["method"]: gr.HTML(pictures.error(str(error)), visible=True)}
        changed = {fields["method"]: method, fields["settings"]: form, errors["method"]: gr.HTML("", visible=False)}
        changed |= {self.aim: _aim(method), self.about: _about(self.studio, method)}
        if needs_boxes(self.studio, method):
            changed[self.layout_part] = gr.Accordion(open=True)
            if not layout["boxes"]:
                changed[fields["layout"]] = self._automatic(prompt, subjects, layout)[0]
        return changed

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
        controlled = bool(task.methods.parts)
        for report in self.studio.run(session, KIND, partial(make_pairs, self.studio, task)):
            if isinstance(report, list):
                views = [result_view.view_of(self.studio.model, pair) for pair in report]
                yield {**self.job.tell(_summary(report)), self.result: {"results": views}}
            elif isinstance(report, Progress):
                yield replace(report, preview=None)
                if report.preview:
                    yield {self.result: result_view.live(report, controlled)}
            else:
                yield report

    def _read(self, values: dict[str, Any]) -> Any:
        prompt = (values["prompt"] or "").strip()
        with field("layout"):
            grounded = values.get("grounding", PLAIN) != PLAIN
            boxed = grounded or needs_boxes(self.studio, values["method"])
            layout = layout_of(values["layout"]) if boxed else None
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
                method, settings = recipes.control_of(recipe)
                values = {
                    "prompt": recipe.prompt,
                    "method": method,
                    "settings": settings,
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

    def _load_example(self, clicked: dict[str, Any], layout: dict[str, Any]) -> dict[Any, Any]:
        index = int(clicked["index"])
        model = self.studio.model
        if not 0 <= index < len(examples.read(model)):
            return {self.result: gr.skip()}
        return {
            **self._fill(examples.values_of(model, index), layout),
            self.result: {"results": [examples.result(model, index)], "stored": True},
        }

    def _open(self, query: str, layout: dict[str, Any]) -> dict[Any, Any]:
        """Fills in what the page's address says."""
        try:
            with field("prompt"):
                values = address.read_address(query)
            return self._fill(values, layout) if values else {self.aim: gr.skip()}
        except FieldError as error:
            return self.job.show_error(FieldError("prompt", str(error)))

    def _fill(self, values: dict[str, Any], layout: dict[str, Any]) -> dict[Any, Any]:
        """Updates that put these values into the fields; raises FieldError if they do not fit together."""
        prompt, method, given = values["prompt"], values["method"], values.get("subjects")
        boxes = values.get("layout")
        with field("restore"):
            form = settings_form(self.studio, method, values.get("settings"))
            structure = quiet_structure(self.studio, prompt, given)
            if boxes == "auto":
                found = automatic_layout(structure)
                pairs = zip(structure.entities, found.regions, strict=True)
                boxes = {entity.text: [list(box) for box in regions] for entity, regions in pairs}
            request = read_request(
                self.studio, self.limits, prompt, steps=values.get("steps", 1), guidance_scale=1, layout=boxes
            )
            check(self.studio, request, MethodSum())
        groups = word_groups(self.studio, prompt, structure)
        simple = ("prompt", "method", "steps", "guidance_scale", "negative_prompt", "width", "height", "grounding")
        boxed = needs_boxes(self.studio, method) or values.get("grounding", PLAIN) != PLAIN
        return {
            **self.job.no_errors(),
            **{self.job.fields[name]: values[name] for name in simple if name in values and name in self.job.fields},
            self.job.fields["seed"]: str(values["seed"]),
            self.job.fields["images"]: 1,
            self.job.fields["settings"]: form,
            self.job.fields["subjects"]: groups,
            self.job.fields["layout"]: {**layout, "phrases": _phrases(groups), "boxes": boxes_of(boxes)},
            self.aim: _aim(method),
            self.about: _about(self.studio, method),
            self.layout_part: gr.Accordion(open=boxed),
            self.sampling_part: gr.Accordion(open="steps" in values),
        }


def quiet_structure(studio: Studio, prompt: str, subjects: Any = None) -> Any:
    """The structure of a prompt; what the text encoder cuts off is shown on the page, not warned of on the server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return structure_of(prompt, studio.tokenizer, subjects)


def _aim(method: str) -> str | None:
    return method if method in AIMS.values() else None


def _about(studio: Studio, method: str) -> str:
    """What the parts of a method or sum do, and their papers in small print."""
    if method == PLAIN:
        return "<p>The stock pipeline, for comparison.</p>"
    parts = [part for _, part in resolve_control(method, studio.tuned).parts]
    says = " ".join(dict.fromkeys(part.summary for part in parts))
    papers = "; ".join(dict.fromkeys(f"{part.name}: {part.paper}" for part in parts))
    return f"<p>{says}</p><p class='paper'>{papers}</p>"


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
    guided = f"; guided: {subjects}" if pairs[0].controlled else ""
    return f"Done: {len(pairs)} seed{'s' if len(pairs) > 1 else ''}{guided}."
