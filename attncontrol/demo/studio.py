"""The one model in memory: jobs take turns, report while they run, and can be stopped between denoiser calls."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from attncontrol.families import family_of
from attncontrol.families.gligen import GatedUNetFamily
from attncontrol.guidance.settings import settings_of
from attncontrol.models import heeds_negative_prompt

LOOK_SECONDS = 1.0  # how often a job is asked whether its visitor is still there
SECONDS = 120
PLACES = 20  # in the queue for the model; every job in it occupies one of the server's 40 threads

Report = Callable[[Any], None]


class Cancelled(BaseException):
    """Stops a job. No Exception: batch generation records those as failures of one image and goes on."""


@dataclass(frozen=True)
class Preview:
    """The picture that the model predicts so far, and where every word attends in this step, hottest at its peak."""

    picture: Image.Image
    attention: dict[str, Image.Image]


@dataclass(frozen=True)
class Progress:
    """How far a job is: steps done of all its steps, what is being made, perhaps what is seen of it so far."""

    done: int
    total: int
    what: str
    preview: Preview | None = None


@dataclass(frozen=True)
class Waiting:
    """How many jobs are before this one in the queue for the model."""

    ahead: int


class Refusal(ValueError):
    """A sentence about why a job was not run, or not to its end, through no fault in one field."""


class QueueFull(Refusal):
    """There is no place left in the queue for the model."""


class TimeUp(Refusal):
    """A job took longer than the server lets one."""


class Studio:
    """Holds the pipeline. `model` is the name, id or folder it was loaded from.

    seconds: how long a job may take from its turn on. The jobs of a session for which `is_here` is false are stopped.
    """

    def __init__(self, pipe: Any, model: str, seconds: float = SECONDS) -> None:
        self.pipe, self.model, self.seconds = pipe, model, seconds
        self.is_here: Callable[[str], bool] = lambda session: True
        self.tuned = settings_of(pipe)
        self.pipe.set_progress_bar_config(disable=True)
        self._queue: list[threading.Event] = []  # the jobs' stops; the job of the first one is running
        self._moved = threading.Condition()
        self._stops: dict[tuple[str, str], threading.Event] = {}

    @property
    def size(self) -> int:
        """The side of the model's images, in pixels."""
        latents = getattr(self.pipe, "default_sample_size", None) or self.pipe.unet.config.sample_size
        return latents * self.pipe.vae_scale_factor

    @property
    def takes_negative_prompt(self) -> bool:
        """Whether a negative prompt has an effect."""
        return heeds_negative_prompt(self.pipe.stock_name)

    @property
    def has_gates(self) -> bool:
        """Whether the model can be told of boxes (docs/grounding.md)."""
        return isinstance(family_of(self.pipe), GatedUNetFamily)

    @property
    def tokenizer(self) -> Any:
        """What finds the words of a prompt among the model's text keys."""
        return family_of(self.pipe).tokenizer

    def run(
        self, session: str, kind: str, job: Callable[[Report], Any], seconds: float | None = None
    ) -> Iterator[Any]:
        """Runs a job in a thread of its own when it is its turn and yields what it reports, its result last.

        Yields `Waiting` as long as its turn has not come, whenever its place in the queue changes. A visitor has one
        job of a kind at a time. Ends without a result if `stop` is called, if the visitor leaves, or if the caller
        closes the iterator; what the job raises is raised here. Raises QueueFull, and TimeUp after `seconds`, by
        default the studio's.
        """
        seconds = seconds or self.seconds
        stop, reports = threading.Event(), queue.SimpleQueue()
        self._stops[session, kind] = stop

        def report(item: Any) -> None:
            reports.put((False, item))

        def work() -> None:
            try:
                with self._turn(stop, report), self._stopping(stop, seconds):
                    result = job(report)
                reports.put((True, result))
            except Cancelled:
                late = f"This took longer than {seconds:g} s, the limit here: ask for less, such as fewer steps."
                reports.put((True, None if stop.is_set() else TimeUp(late)))
            except BaseException as error:
                reports.put((True, error))

        threading.Thread(target=work, daemon=True, name=f"demo-{kind}").start()
        try:
            ended = False
            while not ended:
                try:
                    ended, item = reports.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    ended, item = False, None
                if not self.is_here(session):
                    self._set(stop)
                if isinstance(item, BaseException):
                    raise item
                if item is not None:
                    yield item
        finally:
            self._set(stop)
            if self._stops.get((session, kind)) is stop:
                del self._stops[session, kind]

    def stop(self, session: str, kind: str | None = None) -> None:
        """Stops a visitor's job of a kind, or all of them."""
        for (owner, its_kind), event in list(self._stops.items()):
            if owner == session and kind in (None, its_kind):
                self._set(event)

    def _set(self, stop: threading.Event) -> None:
        stop.set()
        with self._moved:
            self._moved.notify_all()

    @contextmanager
    def _turn(self, stop: threading.Event, report: Report) -> Iterator[None]:
        """Waits until the jobs before this one have ended, or `stop` is set. Raises QueueFull."""
        with self._moved:
            if len(self._queue) >= PLACES:
                raise QueueFull(f"{PLACES} jobs are in the queue for the model already; try again in a while.")
            self._queue.append(stop)
        try:
            with self._moved:
                told = 0
                while (ahead := self._queue.index(stop)) and not stop.is_set():
                    if ahead != told:
                        report(Waiting(ahead))
                        told = ahead
                    self._moved.wait()
            yield
        finally:
            with self._moved:
                self._queue.remove(stop)
                self._moved.notify_all()

    @contextmanager
    def _stopping(self, stop: threading.Event, seconds: float) -> Iterator[None]:
        """Raises Cancelled at once if `stop` is set, else before the next denoiser call after that or `seconds`."""
        end = time.monotonic() + seconds

        def check(*_: Any) -> None:
            if stop.is_set() or time.monotonic() > end:
                raise Cancelled

        check()
        handle = family_of(self.pipe).denoiser.register_forward_pre_hook(check)
        try:
            yield
        finally:
            handle.remove()


def load(model: str, device: str, dtype: str, seconds: float = SECONDS) -> Studio:
    """A studio with the model in memory. Raises ValueError if it cannot be loaded."""
    from attncontrol.cli.loading import load_pipeline

    return Studio(load_pipeline(model, device, dtype), model, seconds)
