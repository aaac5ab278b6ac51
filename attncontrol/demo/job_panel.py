"""What every tab has: a button that runs its job, one that cancels it, the job's state, and errors beside fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import gradio as gr

from attncontrol.demo import pictures
from attncontrol.demo.studio import Progress, Refusal, Studio, Waiting
from attncontrol.demo.task import FieldError

FAILED = "This failed in a way the page did not foresee; the server's log has the details."
PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # the API has functions of its own, in api.py
ENDED = "() => { dispatchEvent(new CustomEvent('job-ended')); }"
# The button was disabled under the focus, which then is nowhere.
FOCUS = "() => document.activeElement === document.body && document.getElementById('%s').focus({preventScroll: true})"
# Gradio's default mode "once" forgets what happens while the answer to an event before is on its way.
QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "trigger_mode": "always_last", **PRIVATE}


class JobPanel:
    """The components, and the events of a job's life. `kind` names the job and is in the components' ids."""

    def __init__(self, studio: Studio, kind: str) -> None:
        self.studio, self.kind = studio, kind
        self.fields: dict[str, Any] = {}
        self.errors: dict[str, gr.HTML] = {}
        self.parts: dict[str, gr.Accordion] = {}  # of the fields in accordions, for errors to open
        self._cancelled: set[str] = set()

    def field(self, name: str, component: Any) -> None:
        """Notes an input of the job and puts the place for its errors below it, in a row too."""
        self.fields[name] = component
        component.unrender()
        with gr.Column(min_width=component.min_width or 160, elem_classes="field"):
            component.render()
            self.error_slot(name)

    def error_slot(self, name: str) -> None:
        """The place for errors of this name."""
        self.errors[name] = gr.HTML(visible=False, elem_id=f"error-{self.kind}-{name}")

    def controls(self, label: str, text: str = "") -> None:
        """The two buttons and the line about the job's state."""
        with gr.Row(elem_classes="actions"):
            self.run = gr.Button(label, variant="primary", elem_id=self.kind)
            self.cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id=f"{self.kind}-cancel")
        self.status = gr.HTML(pictures.notice(text), elem_id=f"{self.kind}-status")

    def connect(self, work: Callable[[dict[str, Any], str], Iterator[Any]], outputs: Sequence[Any]) -> None:
        """Runs work(values of the fields, session) at a press of the button.

        What it yields are updates of the status and of `outputs`, or `Waiting` and `Progress`; a FieldError goes
        beside its field. All of it reaches the browser in order, by one stream: so the end of a cancelled job is told
        there too, and Gradio's own `cancels`, whose answer a late step could overtake, is not used.
        """

        def run_job(data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
            yield self.no_errors()
            values = {name: data[component] for name, component in self.fields.items()}
            try:
                with closing(work(values, request.session_hash)) as reports:
                    yield from self._updates(reports, request.session_hash)
            except FieldError as error:
                yield {**self.tell("Nothing was made: see the field marked in red.", "bad"), **self.show_error(error)}
            except Refusal as error:
                yield self.tell(str(error), "bad")

        buttons = [self.run, self.cancel]
        start = self.run.click(self._start, None, [*buttons, self.status], **{**QUIET, "trigger_mode": "once"})
        job = start.then(
            run_job,
            set(self.fields.values()),
            [self.status, *self.errors.values(), *dict.fromkeys(self.parts.values()), *outputs],
            show_progress="hidden",
            concurrency_limit=None,  # the queue is the studio's
            **PRIVATE,
        )
        # Only here, when the browser has seen the job's end: it would drop a press that comes before.
        job.then(self._idle, None, buttons, js=ENDED, **QUIET).then(None, js=FOCUS % self.kind, **PRIVATE)
        job.failure(self._fail, None, [*buttons, self.status], **QUIET)
        self.cancel.click(self._cancel, None, self.cancel, **QUIET)

    def _updates(self, reports: Iterator[Any], session: str) -> Iterator[dict[Any, Any]]:
        """What the reports of a job change on the page, up to its end or to the visitor's pressing Cancel."""
        ended = False
        for report in reports:
            if isinstance(report, Waiting):
                update = self.tell(f"In the queue: {report.ahead} job{'s' if report.ahead > 1 else ''} before yours.")
            elif isinstance(report, Progress):
                update = {self.status: pictures.progress(report)}
            else:
                update = report
            yield update
            ended = update is report and self.status in update
            if session in self._cancelled and not ended:  # pressed before the studio knew of the job
                break
        if not ended:
            yield self.tell("Cancelled.")

    def tell(self, text: str, kind: str = "") -> dict[Any, Any]:
        """An update of the line about the job's state."""
        return {self.status: pictures.notice(text, kind)}

    def no_errors(self) -> dict[Any, Any]:
        """Updates that take all errors away."""
        return {slot: gr.HTML("", visible=False) for slot in self.errors.values()}

    def show_error(self, error: FieldError) -> dict[Any, Any]:
        """Updates that show this error and no other."""
        opened = {self.parts[error.field]: gr.Accordion(open=True)} if error.field in self.parts else {}
        shown = gr.HTML(pictures.error(str(error)), visible=True)
        return {**self.no_errors(), **opened, self.errors[error.field]: shown}

    def _start(self, request: gr.Request) -> dict[Any, Any]:
        self._cancelled.discard(request.session_hash)
        busy = {self.run: gr.Button(interactive=False), self.cancel: gr.Button(interactive=True)}
        return {**busy, **self.tell("Waiting for the model.")}

    def _idle(self, request: gr.Request) -> dict[Any, Any]:
        self._cancelled.discard(request.session_hash)
        return {self.run: gr.Button(interactive=True), self.cancel: gr.Button(interactive=False)}

    def _cancel(self, request: gr.Request) -> Any:
        self._cancelled.add(request.session_hash)
        self.studio.stop(request.session_hash, self.kind)
        return gr.Button(interactive=False)

    def _fail(self, request: gr.Request) -> dict[Any, Any]:
        return {**self._idle(request), **self.tell(FAILED, "bad")}
