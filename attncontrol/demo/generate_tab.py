"""The Generate tab: prompt, subjects, method, layout and sampling on the left, results on the right."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator
from typing import Any

import gradio as gr

from attncontrol.cli.options import DEFAULT_CONTROL, PLAIN
from attncontrol.demo import examples, pictures, recipes
from attncontrol.demo.results import PRIVATE, Results
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Progress, Studio
from attncontrol.demo.task import FAILED, FieldError, check, field, make_pairs, read_request, read_task
from attncontrol.demo.widgets import (
    boxes_of,
    edited_subjects,
    empty_layout,
    layout_of,
    settings_form,
    widget,
    word_groups,
)
from attncontrol.imagefile import read_recipe
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
        self.fields: dict[str, Any] = {}
        self.errors: dict[str, gr.HTML] = {}
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=5, min_width=300):
                self._prompt_and_subjects()
                self._method()
                self._layout()
                self._sampling()
                self.restore = gr.File(
                    label="Restore: drop a PNG made here, its settings come back",
                    file_types=[".png"],
                    type="filepath",
                    height=150,
                    elem_id="restore",
                )
                self._error("restore")
            with gr.Column(scale=6, min_width=300):
                with gr.Row(elem_classes="actions"):
                    self.generate = gr.Button("Generate", variant="primary", elem_id="generate")
                    self.cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", interactive=False)
                self.results = Results()
                self.examples = examples.table()
        self._events()

    def _error(self, name: str) -> None:
        self.errors[name] = gr.HTML(visible=False, elem_id=f"error-{name}")

    def _add(self, name: str, component: Any) -> Any:
        self.fields[name] = component
        self._error(name)
        return component

    def _prompt_and_subjects(self) -> None:
        self._add(
            "prompt",
            gr.Textbox(FIRST_PROMPT, label="Prompt", lines=2, max_lines=6, elem_id="prompt", autofocus=True),
        )
        groups = word_groups(self.studio, FIRST_PROMPT, structure_of(FIRST_PROMPT, self.studio.pipe.tokenizer))
        self._add("subjects", widget("subject-words", groups))

    def _method(self) -> None:
        classes = method_classes()
        choices = [*classes, ("none (plain sampling)", PLAIN)]
        self._add("method", gr.Dropdown(choices, value=DEFAULT_CONTROL, label="Method", elem_id="method"))
        self.about = gr.HTML(_about(DEFAULT_CONTROL), elem_id="about-method")
        with gr.Accordion("Settings of the method", open=False, elem_id="settings") as self.settings_part:
            self._add("settings", widget("settings-form", settings_form(self.studio, DEFAULT_CONTROL)))

    def _layout(self) -> None:
        with gr.Accordion("Layout", open=False, elem_id="layout") as self.layout_part:
            phrases = _phrases(self.fields["subjects"].value)
            self._add("layout", widget("layout-editor", {**empty_layout(), "phrases": phrases}))
            with gr.Row():
                self.automatic = gr.Button("Automatic", size="sm", elem_id="automatic-layout")
                self.clear = gr.Button("Clear", size="sm", elem_id="clear-layout")

    def _sampling(self) -> None:
        limits, side = self.limits, self.studio.size
        with gr.Row(elem_classes="seed-row"):
            self._add("seed", gr.Textbox("0", label="Seed", min_width=120, elem_id="seed"))
            self.dice = gr.Button("Random", size="md", min_width=90, scale=0, elem_id="dice")
            self._add("images", gr.Number(1, label="Images", min_width=90, elem_id="images"))
        with gr.Accordion("Sampling", open=False, elem_id="sampling") as self.sampling_part:
            with gr.Row():
                self._add("steps", gr.Number(30, label=f"Steps (at most {limits.steps})", elem_id="steps"))
                scale = default_guidance_scale(self.studio.model)
                self._add("guidance_scale", gr.Number(scale, label="Guidance scale", elem_id="guidance"))
            with gr.Row():
                self._add("width", gr.Number(side, label="Width in pixels", elem_id="width"))
                self._add("height", gr.Number(side, label="Height in pixels", elem_id="height"))
            self._add("negative_prompt", gr.Textbox(label="Negative prompt", elem_id="negative-prompt"))

    def _events(self) -> None:
        fields, results = self.fields, self.results
        quiet = {"show_progress": "hidden", "queue": False, **PRIVATE}
        words = [fields["subjects"], fields["layout"]]
        fields["prompt"].change(
            self._parse, [fields["prompt"], fields["layout"]], words, trigger_mode="always_last", **quiet
        )
        fields["method"].input(
            self._choose_method, fields["method"], [self.about, fields["settings"], self.layout_part], **quiet
        )
        self.dice.click(lambda: str(secrets.randbelow(2**32)), None, fields["seed"], **quiet)
        self.automatic.click(
            self._automatic,
            [fields["prompt"], fields["subjects"], fields["layout"]],
            [fields["layout"], self.errors["layout"]],
            **quiet,
        )
        self.clear.click(lambda layout: {**layout, "boxes": []}, fields["layout"], fields["layout"], **quiet)
        for side in ("width", "height"):
            sides = [fields["layout"], fields["width"], fields["height"]]
            fields[side].change(_reshape, sides, fields["layout"], **quiet)
        start = gr.on(
            [self.generate.click, fields["prompt"].submit],
            lambda: self._busy("waiting for the model"),
            None,
            [self.generate, self.cancel, results.status],
            trigger_mode="once",
            **quiet,
        )
        run = start.then(
            self._generate,
            set(fields.values()),
            [
                *(self.generate, self.cancel, results.status, *results.outputs),
                *(*self.errors.values(), self.settings_part, self.layout_part, self.sampling_part),
            ],
            show_progress="minimal",
            show_progress_on=results.status,
            concurrency_id="model",
            **PRIVATE,
        )
        run.failure(lambda: self._idle(FAILED, "bad"), None, [self.generate, self.cancel, results.status], **quiet)
        self.cancel.click(self._cancel, None, [self.generate, self.cancel, results.status], cancels=run, **quiet)
        restored = [*fields.values(), self.about, *self.errors.values(), self.layout_part, self.sampling_part]
        self.restore.upload(self._restore, [self.restore, fields["layout"]], restored, **quiet)
        self.examples.click(self._load_example, [self.examples, fields["layout"]], restored, **quiet)

    def _parse(self, prompt: str, layout: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        text = (prompt or "").strip()[: self.limits.prompt_characters]
        groups = word_groups(self.studio, text, quiet_structure(self.studio, text)) if text else {"words": []}
        return {**groups, "typed": True}, {**layout, "phrases": _phrases(groups)}

    def _choose_method(self, method: str) -> tuple[str, dict[str, Any], Any]:
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

    def _generate(self, data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        values = {name: data[component] for name, component in self.fields.items()}
        try:
            task = self._read(values)
            yield self._no_errors()
            preview = None
            for report in self.studio.run(
                request.session_hash, KIND, lambda tell: make_pairs(self.studio, task, tell)
            ):
                if isinstance(report, Progress):
                    preview = report.preview or preview
                    yield {self.results.status: pictures.progress(report, preview)}
                else:
                    yield {**self._idle(_summary(report)), **self.results.show(report)}
        except FieldError as error:
            yield {**self._idle("Nothing was drawn: see the field marked in red.", "bad"), **self._show_error(error)}

    def _read(self, values: dict[str, Any]) -> Any:
        prompt = (values["prompt"] or "").strip()
        method = values["method"]
        needs_layout = method != PLAIN and method_classes()[method].needs_layout
        with field("layout"):
            layout = layout_of(values["layout"]) if needs_layout else None
        return read_task(
            self.studio,
            self.limits,
            **{name: value for name, value in values.items() if name not in ("settings", "subjects", "layout")},
            settings=values["settings"]["values"],
            subjects=edited_subjects(values["subjects"], prompt),
            layout=layout,
        )

    def _cancel(self, request: gr.Request) -> dict[Any, Any]:
        self.studio.stop(request.session_hash, KIND)
        return self._idle("Cancelled.")

    def _busy(self, text: str) -> dict[Any, Any]:
        return {
            self.generate: gr.Button(interactive=False),
            self.cancel: gr.Button(interactive=True),
            self.results.status: pictures.notice(text),
        }

    def _idle(self, text: str, kind: str = "") -> dict[Any, Any]:
        return {
            self.generate: gr.Button(interactive=True),
            self.cancel: gr.Button(interactive=False),
            self.results.status: pictures.notice(text, kind),
        }

    def _no_errors(self) -> dict[Any, Any]:
        return {slot: gr.HTML("", visible=False) for slot in self.errors.values()}

    def _show_error(self, error: FieldError) -> dict[Any, Any]:
        parts = {"settings": self.settings_part, "layout": self.layout_part} | dict.fromkeys(
            SAMPLING_FIELDS, self.sampling_part
        )
        opened = {parts[error.field]: gr.Accordion(open=True)} if error.field in parts else {}
        shown = gr.HTML(pictures.error(str(error)), visible=True)
        return {**self._no_errors(), **opened, self.errors[error.field]: shown}

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
                    "seed": recipe.seed,
                    **{
                        k: getattr(recipe, k)
                        for k in ("steps", "guidance_scale", "negative_prompt", "width", "height")
                    },
                }
                return self._fill(values, layout)
        except FieldError as error:
            message = str(error).replace(repr(path), "the file")
            return {**self._no_errors(), self.errors["restore"]: gr.HTML(pictures.error(message), visible=True)}

    def _load_example(self, index: int, layout: dict[str, Any]) -> dict[Any, Any]:
        return self._fill(examples.values_of(index), layout)

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
        simple = ("prompt", "method", "steps", "guidance_scale", "negative_prompt", "width", "height")
        needs_layout = method != PLAIN and method_classes()[method].needs_layout
        return {
            **self._no_errors(),
            **{self.fields[name]: values[name] for name in simple if name in values},
            self.fields["seed"]: str(values["seed"]),
            self.fields["images"]: 1,
            self.fields["settings"]: settings_form(self.studio, method, values.get("settings")),
            self.fields["subjects"]: groups,
            self.fields["layout"]: {**layout, "phrases": _phrases(groups), "boxes": boxes_of(boxes)},
            self.about: _about(method),
            self.layout_part: gr.Accordion(open=needs_layout),
            self.sampling_part: gr.Accordion(open="steps" in values),
        }


def quiet_structure(studio: Studio, prompt: str, subjects: Any = None) -> Any:
    """The structure of a prompt; what the text encoder cuts off is shown on the page, not warned of on the server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return structure_of(prompt, studio.pipe.tokenizer, subjects)


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
