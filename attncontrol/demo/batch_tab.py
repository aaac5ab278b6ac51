"""The Batch tab: a prompt file is checked, run with progress, and its folder handed out as a zip."""

from __future__ import annotations

import json
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from attncontrol.arguments import DEFAULT_CONTROL, PLAIN
from attncontrol.batch import Counts, OutputFolder, Plan, Problem, Run, Worker
from attncontrol.batch.runner import one_by_one
from attncontrol.demo import pictures
from attncontrol.demo.job_panel import QUIET, JobPanel
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Progress, Report, Studio, Waiting
from attncontrol.demo.task import FieldError, read_method, whole_number
from attncontrol.losses import method_classes
from attncontrol.losses.combining import control_to_json
from attncontrol.models import default_guidance_scale

KIND = "batch"
BATCH_SIZE = 4
SHOWN_PROBLEMS = 50
TURNS = 10  # a batch may take so many times as long as another job

_reading = threading.Lock()  # files are read one at a time, that many visitors do not take all cores


@dataclass(frozen=True)
class Checked:
    """A prompt file that can be run."""

    path: Path
    plan: Plan
    jobs: int


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
    return Plan([Path(path)], defaults, allow_files=False, tuned=studio.tuned)


def validate(plan: Plan, limits: Limits) -> tuple[int, list[str], list[Problem]]:
    """The number of jobs, warnings, and what is wrong with the file; limits of the server count as wrong too."""
    problems: list[Problem] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        with _reading:
            jobs = plan.check(problems.append, limits.jobs)
    if not problems:
        problems = [Problem("", None, None, text) for text in beyond_limits(plan, jobs, limits)]
    return jobs, [str(warning.message) for warning in caught], problems


def beyond_limits(plan: Plan, jobs: int, limits: Limits) -> Iterator[str]:
    """What a file asks for beyond the limits of this server."""
    if jobs > limits.jobs:
        yield f"the file asks for more than {limits.jobs} images; at most {limits.jobs} are allowed here"
        return
    for job in plan.jobs():
        if job.steps > limits.steps:
            yield f"{job.name}: {job.steps} steps; at most {limits.steps} are allowed here"
        if max(job.width or 0, job.height or 0) > limits.size:
            yield f"{job.name}: {job.width}x{job.height} pixels; at most {limits.size} a side are allowed here"


def report_html(name: str, jobs: int, cautions: list[str], problems: list[Problem], path: str) -> str:
    """The validation report as a sentence and a table."""
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


def run_batch(studio: Studio, checked: Checked, report: Report) -> tuple[Counts, str]:
    """Makes the images in a folder of their own; reports `Progress`; returns the counts and the zip's path."""
    target = Path(tempfile.mkdtemp(prefix="attncontrol-"))
    folder, worker = OutputFolder(target / checked.path.stem), Worker(studio.pipe, studio.model)

    def progress(counts: Counts) -> None:
        done = counts.found + counts.made + counts.failed
        report(Progress(done, counts.total, f"{counts.failed} failed" if counts.failed else "images"))

    run = Run(checked.plan, folder, worker.fingerprint(), one_by_one(worker), BATCH_SIZE, progress)
    return run(checked.jobs), zipped(folder, checked.path)


def zipped(folder: OutputFolder, source: Path) -> str:
    """The folder as a zip beside it, without the lock and without the place of the uploaded file on this server."""
    path = folder.path.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.path.rglob("*")):
            if not file.is_file() or file.name.startswith("."):
                continue
            name = str(file.relative_to(folder.path.parent))
            if file.name == "run.json":
                text = file.read_text(encoding="utf-8")
                archive.writestr(name, text.replace(json.dumps(str(source))[1:-1], source.name))
            else:
                archive.write(file, name)
    return str(path)


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
        file, method, steps = self.job.fields.values()
        checked = [self.report, *self.job.errors.values()]
        gr.on([file.upload, method.input, steps.change], self._check, [file, method, steps], checked, **QUIET)
        self.job.connect(self._run, [self.report, self.download])

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
        choices = [*method_classes(), ("none (plain sampling)", PLAIN)]
        self.job.field("method", gr.Dropdown(choices, value=DEFAULT_CONTROL, label="Method", elem_id="batch-method"))
        self.job.field("steps", gr.Number(30, label=f"Steps (at most {self.limits.steps})", elem_id="batch-steps"))

    def _check(self, path: str | None, method: str, steps: Any) -> dict[Any, Any]:
        if path is None:
            return self.job.no_errors()
        try:
            plan = read_plan(self.studio, path, method, steps, self.limits)
        except FieldError as error:
            return self.job.show_error(error)
        report = report_html(Path(path).name, *validate(plan, self.limits), path)
        return {**self.job.no_errors(), self.report: report}

    def _run(self, values: dict[str, Any], session: str) -> Iterator[Any]:
        path = values["file"]
        plan = read_plan(self.studio, path, values["method"], values["steps"], self.limits)
        jobs, cautions, problems = validate(plan, self.limits)
        checked = report_html(Path(path).name, jobs, cautions, problems, path)
        yield {self.report: checked, self.download: gr.DownloadButton(visible=False)}
        if problems:
            yield self.job.tell("Nothing was made: correct the file and upload it again.", "bad")
            return
        job = partial(run_batch, self.studio, Checked(Path(path), plan, jobs))
        for report in self.studio.run(session, KIND, job, TURNS * self.studio.seconds):
            if isinstance(report, Progress | Waiting):
                yield report
                continue
            counts, archive = report
            text = f"Done: {counts.made} images in {counts.seconds:.0f} s, {counts.failed} failed."
            yield {self.download: gr.DownloadButton(value=archive, visible=True), **self.job.tell(text)}
