"""The Batch tab: a prompt file is checked, its pictures are shown as they come, and its folder is a zip at the end."""

from __future__ import annotations

import base64
import io
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from attncontrol.arguments import DEFAULT_CONTROL, PLAIN
from attncontrol.batch import Plan, Problem
from attncontrol.batch.worker import Made
from attncontrol.demo import pictures
from attncontrol.demo.batch_run import run_batch
from attncontrol.demo.job_panel import PRIVATE, JobPanel
from attncontrol.demo.schema import read_boxes, read_subject_list
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Progress, Report, Studio, Waiting
from attncontrol.demo.task import FieldError, read_method, read_text, whole_number
from attncontrol.images.visualize import enlarge
from attncontrol.losses import method_classes
from attncontrol.losses.combining import control_to_json
from attncontrol.models import default_guidance_scale, default_steps

KIND = "batch"
SAMPLES = Path(__file__).with_name("samples")
SHOWN_PROBLEMS = 50
SHOWN_PICTURES = 48
SHOWN_CHARACTERS = 100
THUMBNAIL = 128
PARTS = 10  # of a sum of methods
TURNS = 10  # a batch may take so many times as long as another job

# Files are read one at a time, that many visitors do not take all cores: checks wait in Gradio's queue, runs in the
# studio's, and the first of each for the lock.
READING: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", **PRIVATE}
READING |= {"concurrency_id": "reading", "concurrency_limit": 1}
_reading = threading.Lock()


@dataclass(frozen=True)
class Checked:
    """What was found in a prompt file; it can be run if there are no problems."""

    jobs: int
    cautions: list[str]
    problems: list[Problem]


def read_plan(studio: Studio, path: str | None, method: str, steps: Any, limits: Limits) -> Plan:
    """The plan of an uploaded file; method and steps are for rows that name none. Raises FieldError."""
    if path is None:
        raise FieldError("file", "choose a prompt file.")
    count = whole_number("steps", steps, 1, limits.steps)
    defaults = {
        "control": control_to_json(read_method(studio, method, {})) or None,
        "steps": count,
        "guidance_scale": default_guidance_scale(studio.model),
    }
    heeds = studio.takes_negative_prompt
    return Plan([Path(path)], defaults, allow_files=False, tuned=studio.tuned, heeds_negative_prompt=heeds)


def validate(plan: Plan, limits: Limits) -> Checked:
    """Reads the file up to the limits of the server, which count as wrong too."""
    problems: list[Problem] = []
    with warnings.catch_warnings(record=True) as caught, _reading:
        warnings.simplefilter("always", UserWarning)
        jobs = plan.check(problems.append, limits.jobs)
        if not problems:
            problems = [Problem("", None, None, text) for text in beyond_limits(plan, jobs, limits)]
    return Checked(jobs, [str(warning.message) for warning in caught], problems)


def beyond_limits(plan: Plan, jobs: int, limits: Limits) -> Iterator[str]:
    """What a file asks for beyond the limits of this server."""
    if jobs > limits.jobs:
        yield f"the file asks for more than {limits.jobs} images; at most {limits.jobs} are allowed here"
        return
    for job in plan.jobs():
        if job.sampling.steps > limits.steps:
            yield f"{job.name}: {job.sampling.steps} steps; at most {limits.steps} are allowed here"
        width, height = job.sampling.width, job.sampling.height
        if max(width or 0, height or 0) > limits.size:
            yield f"{job.name}: {width}x{height} pixels; at most {limits.size} a side are allowed here"
        if len(job.control or ()) > PARTS:
            yield f"{job.name}: a sum of {len(job.control or ())} methods; at most {PARTS} are allowed here"
        try:
            read_text("prompt", job.prompt, limits)
            read_text("negative_prompt", job.sampling.negative_prompt, limits)
            read_boxes(job.layout)
            read_subject_list(job.subjects)
        except ValueError as error:
            yield f"{job.name}: {error}"


def report_html(path: str, checked: Checked) -> str:
    """The validation report as a sentence and a table."""
    name, jobs, cautions, problems = Path(path).name, checked.jobs, checked.cautions, checked.problems
    if not problems and not cautions:
        return pictures.notice(f"{name} is valid: {jobs} images to make.")
    rows = [(str(p.line or ""), str(p.key or ""), p.message) for p in problems]
    rows += [("", "warning", text) for text in cautions]
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(cell.replace(path, name))}</td>" for cell in row) + "</tr>"
        for row in rows[:SHOWN_PROBLEMS]
    )
    more = f"<p>and {len(rows) - SHOWN_PROBLEMS} more</p>" if len(rows) > SHOWN_PROBLEMS else ""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    text = f"{name} cannot be run: {count}." if problems else f"{name} is valid: {jobs} images to make."
    head = "<tr><th scope='col'>line</th><th scope='col'>key</th><th scope='col'>what is wrong</th></tr>"
    table = f"<div class='scroll'><table class='report'>{head}{cells}</table></div>{more}"
    return pictures.notice(text, "bad" if problems else "") + table


def thumbnail(made: Made, studio: Studio) -> str:
    """A picture of a batch with its prompt, seed and the oracle's verdict, small enough to send many."""
    buffer = io.BytesIO()
    image = enlarge(made.image, THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(buffer, "WEBP", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    title = escape(f"{made.recipe.prompt[:SHOWN_CHARACTERS]}, seed {made.recipe.seed}")
    verdict = pictures.verdict(pictures.judge(studio, made) or ())
    picture = f'<img src="data:image/webp;base64,{data}" alt="{title}">'
    return f"<figure>{picture}<figcaption>{title}{verdict}</figcaption></figure>"


def newest_first(thumbnails: list[str]) -> str:
    """The last pictures of a batch."""
    more = len(thumbnails) - SHOWN_PICTURES
    rest = pictures.notice(f"and {more} before these, in the zip" if more > 0 else "")
    return f'<div class="batch-pictures">{"".join(thumbnails[: -SHOWN_PICTURES - 1 : -1])}</div>{rest}'


class BatchTab:
    """The components of the tab, and their handlers."""

    def __init__(self, studio: Studio, limits: Limits) -> None:
        self.studio, self.limits = studio, limits
        self.job = JobPanel(studio, KIND)
        with gr.Row(elem_classes="columns"):
            with gr.Column(min_width=300):
                self._inputs()
            with gr.Column(min_width=300):
                self.job.controls("Run")
                self.report = gr.HTML(
                    pictures.notice("The file is checked as a whole before anything is drawn."), elem_id="batch-report"
                )
                self.download = gr.DownloadButton(
                    "Download the folder as a zip", visible=False, elem_id="batch-download"
                )
                self.pictures = gr.HTML(elem_id="batch-pictures")
        file, method, steps = fields = list(self.job.fields.values())
        checked = [self.report, *self.job.errors.values()]
        gr.on([file.upload, method.input, steps.change], self._check, fields, checked, **READING)
        for button, sample in self.samples:
            chosen = button.click(partial(_copy, sample), None, file, show_progress="hidden", queue=False, **PRIVATE)
            chosen.then(self._check, fields, checked, **READING)
        self.job.connect(self._run, [self.report, self.download, self.pictures])

    def _inputs(self) -> None:
        self.job.field(
            "file",
            gr.File(
                label=f"Prompt file (at most {self.limits.upload_mb} MB)",
                type="filepath",
                height=170,
                elem_id="batch-file",
            ),
        )
        gr.HTML(
            "<p class='notice'>Text with a prompt per line, CSV, TSV, JSON Lines or YAML. A row may set its own "
            "method, seed, steps, subjects and boxes. These are for rows that do not:</p>"
        )
        with gr.Row():
            self.samples = [
                (gr.Button(f"Try {path.name}", size="sm", elem_classes="sample"), path)
                for path in sorted(SAMPLES.iterdir())
            ]
        choices = [*method_classes(), ("none (plain sampling)", PLAIN)]
        steps = min(default_steps(self.studio.model), self.limits.steps)
        self.job.field("method", gr.Dropdown(choices, value=DEFAULT_CONTROL, label="Method", elem_id="batch-method"))
        self.job.field("steps", gr.Number(steps, label=f"Steps (at most {self.limits.steps})", elem_id="batch-steps"))

    def _check(self, path: str | None, method: str, steps: Any) -> Iterator[dict[Any, Any]]:
        if path is None:
            yield self.job.no_errors()
            return
        yield {self.report: pictures.notice("Reading the file.")}
        try:
            plan = read_plan(self.studio, path, method, steps, self.limits)
        except FieldError as error:
            yield {**self.job.show_error(error), self.report: ""}
            return
        yield {**self.job.no_errors(), self.report: report_html(path, validate(plan, self.limits))}

    def _run(self, values: dict[str, Any], session: str) -> Iterator[Any]:
        path, thumbnails = values["file"], []
        plan = read_plan(self.studio, path, values["method"], values["steps"], self.limits)
        yield {self.pictures: "", self.download: gr.DownloadButton(visible=False)}
        for report in self.studio.run(session, KIND, partial(self._work, plan), TURNS * self.studio.seconds):
            if isinstance(report, Progress | Waiting):
                yield report
            elif isinstance(report, Checked):
                yield {self.report: report_html(path, report)}
                if report.problems:
                    yield self.job.tell("Nothing was made: correct the file and upload it again.", "bad")
            elif isinstance(report, Made):
                thumbnails.append(thumbnail(report, self.studio))
                yield {self.pictures: newest_first(thumbnails)}
            else:
                counts, archive = report
                text = f"Done: {counts.made} images in {counts.seconds:.0f} s, {counts.failed} failed."
                yield {self.download: gr.DownloadButton(value=archive, visible=True), **self.job.tell(text)}

    def _work(self, plan: Plan, report: Report) -> Any:
        checked = validate(plan, self.limits)
        report(checked)
        return None if checked.problems else run_batch(self.studio, plan, checked.jobs, report)


def _copy(sample: Path) -> str:
    """A sample file where the server may hand it out."""
    return shutil.copy(sample, tempfile.mkdtemp(prefix="attncontrol-"))
