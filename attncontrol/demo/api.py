"""Named endpoints for programs (gradio_client), with fields of their own so that the page may change freely."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from attncontrol.arguments import DEFAULT_CONTROL, PLAIN
from attncontrol.demo import pictures
from attncontrol.demo.before_after import save_pictures
from attncontrol.demo.compare_tab import SEEDS, make_comparison, read_comparison, save_comparison
from attncontrol.demo.edit_run import can_edit, make_edit, read_edit
from attncontrol.demo.insert_run import can_insert, make_insertion, read_insertion
from attncontrol.demo.results import save
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Progress, Refusal, Report, Studio, Waiting
from attncontrol.demo.task import FieldError, Pair, Task, field, read_task, read_text
from attncontrol.demo.widgets import settings_form, word_groups
from attncontrol.editing.inversion import METHODS
from attncontrol.grounding.settings import NAMES
from attncontrol.images.drawing import draw
from attncontrol.layout import automatic_layout
from attncontrol.losses import method_classes
from attncontrol.losses.presets import PRESETS
from attncontrol.models import default_guidance_scale, default_steps
from attncontrol.prompt import structure_of


class Api:
    """/methods, /parse, /layout, /generate, /compare and, where the model can do it, /edit and /edit_picture."""

    def __init__(self, studio: Studio, limits: Limits) -> None:
        self.studio, self.limits = studio, limits
        with gr.Column(visible=False):
            prompt = gr.Textbox(label="prompt")
            steps = gr.Number(min(default_steps(studio.model), limits.steps), label="steps")
            guidance = gr.Number(default_guidance_scale(studio.model), label="guidance_scale")
            names = [*method_classes(), *PRESETS, PLAIN]
            self._endpoint(self.methods, [], gr.JSON(label="methods"))
            self._endpoint(self.parse, [prompt], gr.JSON(label="words and subjects"))
            self._endpoint(self.layout, [prompt], gr.JSON(label="boxes by phrase"))
            sampling = [
                gr.Number(0, label="seed"),
                steps,
                guidance,
                gr.Textbox("", label="negative_prompt"),
                gr.Number(studio.size, label="width"),
                gr.Number(studio.size, label="height"),
            ]
            self._endpoint(
                self.generate,
                [
                    prompt,
                    gr.Dropdown(names, value=DEFAULT_CONTROL, label="method", allow_custom_value=True),  # sums
                    gr.JSON({}, label="settings"),
                    gr.JSON([], label="subjects"),
                    gr.JSON({}, label="layout"),
                    *sampling,
                    gr.Dropdown([PLAIN, *NAMES], value=PLAIN, label="grounding"),
                ],
                [gr.File(label="PNG with its recipe"), gr.JSON(label="recipe")],
                "api",
            )
            methods = gr.CheckboxGroup(names, value=[PLAIN, DEFAULT_CONTROL], label="methods")
            self._endpoint(
                self.compare,
                [prompt, methods, gr.Textbox(SEEDS, label="seeds"), steps, guidance],
                [gr.File(label="PNG of the grid"), gr.JSON(label="verdicts")],
                "api",
            )
            if can_edit(studio.pipe):
                to, windows = (
                    gr.Textbox(label="to"),
                    [gr.Number(0.8, label="cross"), gr.Number(0.4, label="self_attention")],
                )
                local = gr.Textbox("", label="local")
                made = [gr.File(label="PNG before"), gr.File(label="PNG after"), gr.JSON(label="changes and settings")]
                common = [*windows, local, steps, guidance]
                self._endpoint(self.edit, [prompt, to, sampling[0], *common], made, "api")
                picture = gr.File(label="picture", type="filepath")
                method = gr.Dropdown([*METHODS], value="ddim", label="method")
                self._endpoint(self.edit_picture, [picture, prompt, to, method, *common], made, "api")

            elif can_insert(studio.pipe):
                thing, to, picture = (
                    gr.Textbox(label="thing"),
                    gr.Textbox("", label="to"),
                    gr.File(label="picture", type="filepath"),
                )
                made = [gr.File(label="PNG before"), gr.File(label="PNG after"), gr.JSON(label="settings")]
                self._endpoint(self.insert, [prompt, thing, to, sampling[0], steps, guidance], made, "api")
                self._endpoint(self.insert_into_picture, [picture, prompt, thing, to, steps, guidance], made, "api")

    @staticmethod
    def _endpoint(function: Callable, inputs: list[Any], outputs: Any, concurrency_id: str | None = None) -> None:
        gr.Button().click(
            function,
            inputs,
            outputs,
            api_name=function.__name__,
            concurrency_id=concurrency_id,
            api_visibility="public",
        )

    def methods(self) -> dict[str, Any]:
        """Every method: what it does, its source, whether it needs a layout, its settings with defaults."""
        return {
            name: {
                "summary": cls.summary,
                "paper": cls.paper,
                "needs_layout": cls.needs_layout,
                "settings": settings_form(self.studio, name)["fields"],
            }
            for name, cls in method_classes().items()
        }

    def parse(self, prompt: str) -> dict[str, Any]:
        """The prompt's words, tokens and subjects."""
        with _errors():
            text = read_text("prompt", prompt, self.limits, needed=True)
            return word_groups(self.studio, text, structure_of(text, self.studio.tokenizer))

    def layout(self, prompt: str) -> dict[str, list[list[float]]]:
        """The automatic layout: boxes [x0, y0, x1, y1] in 0..1 by phrase."""
        with _errors(), field("prompt"):
            text = read_text("prompt", prompt, self.limits, needed=True)
            structure = structure_of(text, self.studio.tokenizer)
            placed = zip(structure.entities, automatic_layout(structure).regions, strict=True)
            return {
                entity.text: [[round(v, 3) for v in box] for box in regions] for entity, regions in placed if regions
            }

    def generate(
        self,
        prompt: str,
        method: str,
        settings: dict,
        subjects: list,
        layout: dict,
        seed: float,
        steps: float,
        guidance_scale: float,
        negative_prompt: str,
        width: float,
        height: float,
        grounding: str,
        request: gr.Request,
    ) -> tuple[str, dict[str, Any]]:
        """One image with a method, "auto", a sum or "none": a PNG that carries its recipe, and the recipe."""
        with _errors():
            task = read_task(
                self.studio,
                self.limits,
                prompt=prompt,
                method=method,
                settings=settings,
                subjects=subjects or None,
                layout=layout or None,
                seed=seed,
                steps=steps,
                guidance_scale=guidance_scale,
                negative_prompt=negative_prompt,
                width=width,
                height=height,
                grounding=grounding,
            )
            pair = self._result(request, partial(self._draw, task))
        return save([pair]).files[0], json.loads(pair.plain.recipe.to_json())

    def _draw(self, task: Task, report: Report) -> Pair:
        done, total = 0, task.request.sampling.steps

        def on_step(more: int) -> None:
            nonlocal done, total
            done, total = done + 1, total + more
            report(Progress(done, total, "image"))

        with field("settings"):
            return Pair(draw(self.studio.pipe, task.request, task.methods, task.seeds[0], on_step))

    def compare(
        self,
        prompt: str,
        methods: list[str],
        seeds: str,
        steps: float,
        guidance_scale: float,
        request: gr.Request,
    ) -> tuple[str, list[dict[str, Any]]]:
        """One prompt with several methods and seeds: a grid as PNG, and the oracle's verdict on each image."""
        with _errors():
            comparison = read_comparison(
                self.studio,
                self.limits,
                prompt=prompt,
                methods=methods,
                seeds=seeds,
                steps=steps,
                guidance_scale=guidance_scale,
            )
            rows = self._result(request, partial(make_comparison, self.studio, comparison))
        verdicts = [
            {"method": title, "seed": seed, "right": dict(pictures.judge(self.studio, drawn) or [])}
            for seed, row in zip(comparison.seeds, rows, strict=True)
            for title, drawn in zip(comparison.titles, row, strict=True)
        ]
        return save_comparison(comparison, rows), verdicts

    def edit(
        self,
        prompt: str,
        to: str,
        seed: float,
        cross: float,
        self_attention: float,
        local: str,
        steps: float,
        guidance_scale: float,
        request: gr.Request,
    ) -> tuple[str, str, dict[str, Any]]:
        """A picture of the prompt, and the same with other words: both as PNG, what changed and how."""
        values = {"seed": seed, "cross": cross, "self_attention": self_attention, "local": local, "steps": steps}
        values |= {"picture": None, "method": "ddim", "guidance_scale": guidance_scale}
        return self._edited(request, prompt=prompt, to=to, **values)

    def edit_picture(
        self,
        picture: str,
        prompt: str,
        to: str,
        method: str,
        cross: float,
        self_attention: float,
        local: str,
        steps: float,
        guidance_scale: float,
        request: gr.Request,
    ) -> tuple[str, str, dict[str, Any]]:
        """A picture of yours that shows the prompt, with other words: as drawn again, and edited."""
        values = {"seed": 0, "cross": cross, "self_attention": self_attention, "local": local, "steps": steps}
        values |= {"picture": picture, "method": method, "guidance_scale": guidance_scale}
        return self._edited(request, prompt=prompt, to=to, **values)

    def _edited(self, request: gr.Request, **values: Any) -> tuple[str, str, dict[str, Any]]:
        with _errors():
            task = read_edit(self.studio, self.limits, **values)
            edited = self._result(request, partial(make_edit, self.studio, task, None))
        before, after = save_pictures(task, edited.pictures)
        return before, after, {"changes": [change.text for change in task.alignment.changes], **task.facts}

    def insert(
        self,
        prompt: str,
        thing: str,
        to: str,
        seed: float,
        steps: float,
        guidance_scale: float,
        request: gr.Request,
    ) -> tuple[str, str, dict[str, Any]]:
        """A picture of the prompt, and the same with a new thing: both as PNG, and how they were made."""
        values = {"to": to, "seed": seed, "steps": steps, "guidance_scale": guidance_scale, "picture": None}
        return self._inserted(request, prompt=prompt, thing=thing, **values)

    def insert_into_picture(
        self,
        picture: str,
        prompt: str,
        thing: str,
        to: str,
        steps: float,
        guidance_scale: float,
        request: gr.Request,
    ) -> tuple[str, str, dict[str, Any]]:
        """A picture of yours that shows the prompt, and the same with a new thing: as drawn again, and with it."""
        values = {"to": to, "seed": 0, "steps": steps, "guidance_scale": guidance_scale, "picture": picture}
        return self._inserted(request, prompt=prompt, thing=thing, **values)

    def _inserted(self, request: gr.Request, **values: Any) -> tuple[str, str, dict[str, Any]]:
        with _errors():
            task = read_insertion(self.studio, self.limits, **values)
            made = self._result(request, partial(make_insertion, self.studio, task))
        before, after = save_pictures(task, made.pictures)
        return before, after, task.facts

    def _result(self, request: gr.Request, job: Callable) -> Any:
        results = self.studio.run(request.session_hash, "api", job)
        found = [result for result in results if not isinstance(result, Progress | Waiting)]
        if not found:
            raise gr.Error("The job was cancelled.", print_exception=False)
        return found[-1]


class _errors:
    """FieldErrors become the client's errors, with the field's name; what the studio refuses is an error too."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FieldError):
            raise gr.Error(f"{error.field}: {error}", print_exception=False) from error
        if isinstance(error, Refusal):
            raise gr.Error(str(error), print_exception=False) from error
