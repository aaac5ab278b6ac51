"""The Compare tab: one prompt, several methods, several seeds, in a labelled grid."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from attncontrol.arguments import DEFAULT_CONTROL, PLAIN, slug
from attncontrol.demo import examples, pictures
from attncontrol.demo.job_panel import JobPanel
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Progress, Report, Studio
from attncontrol.demo.task import FieldError, check, field, read_method, read_request, read_seed_list
from attncontrol.demo.widgets import layout_of
from attncontrol.images.drawing import Drawn, Request, draw
from attncontrol.images.recipe import save_image
from attncontrol.images.visualize import labelled_grid
from attncontrol.losses import MethodSum, method_classes
from attncontrol.losses.combining import control_names
from attncontrol.losses.presets import PRESETS
from attncontrol.models import default_guidance_scale, default_steps

KIND = "compare"
DRAWN = "drawn"
SEEDS = "0, 1"


@dataclass(frozen=True)
class Comparison:
    """What is compared: every column is a sum of methods, as it was chosen, with the request it is run with."""

    columns: tuple[tuple[MethodSum, Request], ...]
    chosen: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def titles(self) -> list[str]:
        """The columns' names."""
        return control_names([methods for methods, _ in self.columns], self.chosen)


Rows = list[list[Drawn]]


def read_comparison(
    studio: Studio,
    limits: Limits,
    *,
    prompt: str,
    methods: Sequence[str],
    seeds: str,
    steps: Any,
    guidance_scale: Any,
    layout: Any = "auto",
) -> Comparison:
    """A checked comparison; methods that need a layout get this one. Raises FieldError."""
    numbers = read_seed_list(seeds, limits)
    if not methods:
        raise FieldError("methods", "choose at least one method.")
    columns, chosen = [], tuple(dict.fromkeys(methods))
    for name in chosen:
        with field("methods"):
            control = read_method(studio, name, {})
        needs_layout = any(part.needs_layout for _, part in control.parts)
        request = read_request(
            studio,
            limits,
            prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            layout=layout if needs_layout else None,
        )
        try:
            check(studio, request, control)
        except FieldError as error:
            at = "layout" if error.field == "layout" and layout != "auto" else "methods"
            raise FieldError(at, f"{name}: {error}") from error
        columns.append((control, request))
    return Comparison(tuple(columns), chosen, tuple(numbers))


def make_comparison(studio: Studio, comparison: Comparison, report: Report) -> Rows:
    """Draws the grid row by row; reports `Progress` after every step and the rows so far after every image."""
    steps = comparison.columns[0][1].sampling.steps
    total = steps * len(comparison.columns) * len(comparison.seeds)
    done, rows = 0, []
    for seed in comparison.seeds:
        rows.append([])
        for title, (methods, request) in zip(comparison.titles, comparison.columns, strict=True):
            what = f"{title}, seed {seed}"

            def on_step(more: int, what: str = what) -> None:
                nonlocal done, total
                done, total = done + 1, total + more
                report(Progress(done, total, what))

            with field("methods"):
                rows[-1].append(draw(studio.pipe, request, methods, seed, on_step))
            report([list(row) for row in rows])
    return rows


def save_comparison(comparison: Comparison, rows: Rows) -> str:
    """The finished grid as one PNG with the recipes of all its images; returns its path."""
    prompt = comparison.columns[0][1].prompt
    grid = labelled_grid(
        [[drawn.image for drawn in row] for row in rows],
        row_titles=[f"seed {seed}" for seed in comparison.seeds],
        column_titles=comparison.titles,
        caption=prompt,
    )
    path = Path(tempfile.mkdtemp(prefix="attncontrol-")) / f"{slug(prompt)}_compare.png"
    save_image(grid, path, [drawn.recipe for row in rows for drawn in row])
    return str(path)


class CompareTab:
    """The components of the tab, and their handlers."""

    def __init__(self, studio: Studio, limits: Limits, drawn: Any) -> None:
        """drawn: the layout editor whose boxes can be used."""
        self.studio, self.limits = studio, limits
        self.job = JobPanel(studio, KIND)
        first = examples.opening(studio.model)
        self.job.field("prompt", gr.Textbox(first["prompt"], label="Prompt", elem_id="compare-prompt"))
        self.job.field(
            "methods",
            gr.CheckboxGroup(
                [("plain", PLAIN), *PRESETS, *method_classes()],
                value=[PLAIN, DEFAULT_CONTROL],
                label="Methods",
                elem_id="compare-methods",
            ),
        )
        self.job.field(
            "layout",
            gr.Radio(
                [("automatic", "auto"), ("the boxes drawn on the tab Generate", DRAWN)],
                value="auto",
                label="Layout, for the methods that need one",
                elem_id="compare-layout",
            ),
        )
        steps = min(default_steps(studio.model), limits.steps)
        with gr.Row():
            self.job.field("seeds", gr.Textbox(SEEDS, label="Seeds, separated by commas", elem_id="compare-seeds"))
            self.job.field("steps", gr.Number(steps, label="Steps", elem_id="compare-steps"))
            scale = default_guidance_scale(studio.model)
            self.job.field("guidance_scale", gr.Number(scale, label="Guidance scale"))
        self.job.controls("Compare")
        self.grid = gr.HTML(elem_id="comparison")
        self.download = gr.DownloadButton("Download the grid as PNG", visible=False, elem_id="compare-download")
        self.job.fields["drawn"] = drawn
        self.job.connect(self._compare, [self.grid, self.download])

    def _compare(self, values: dict[str, Any], session: str) -> Iterator[Any]:
        drawn = values.pop("drawn")
        if values["layout"] == DRAWN:
            with field("layout"):
                values["layout"] = layout_of(drawn)
        comparison = read_comparison(self.studio, self.limits, **values)
        yield {self.download: gr.DownloadButton(visible=False), self.grid: ""}
        rows: Rows = []
        for report in self.studio.run(session, KIND, partial(make_comparison, self.studio, comparison)):
            if isinstance(report, list):
                rows = report
                yield {self.grid: self._grid(comparison, rows)}
            else:
                yield report
        if sum(len(row) for row in rows) == len(comparison.columns) * len(comparison.seeds):
            path = save_comparison(comparison, rows)
            done = {self.download: gr.DownloadButton(value=path, visible=True)}
            yield {**done, **self.job.tell(self._tally(comparison, rows))}

    def _grid(self, comparison: Comparison, rows: Rows) -> str:
        verdicts = [[pictures.judge(self.studio, drawn) or () for drawn in row] for row in rows]
        cells = [
            [(drawn.image, pictures.verdict(verdict)) for drawn, verdict in zip(*pair, strict=True)]
            for pair in zip(rows, verdicts, strict=True)
        ]
        return pictures.comparison(comparison.titles, comparison.seeds, cells)

    def _tally(self, comparison: Comparison, rows: Rows) -> str:
        """How often each method was all right, where there are verdicts."""
        judged = [[pictures.judge(self.studio, drawn) for drawn in row] for row in rows]
        if judged[0][0] is None:
            return "Done."
        right = [sum(all(ok for _, ok in row[i]) for row in judged) for i in range(len(comparison.columns))]
        counts = ", ".join(f"{t} {n} of {len(rows)}" for t, n in zip(comparison.titles, right, strict=True))
        return f"Done. Every object there, in its colour: {counts}."
