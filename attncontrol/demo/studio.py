"""The one model in memory: jobs take turns, report while they run, and can be stopped between denoiser calls."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from attncontrol.models import resolve, tuned_settings

PREVIEW_SECONDS = 0.15
PREVIEW_SHARE = 0.2  # of the time, at most, goes into decoding previews
PLACES = 20  # in the queue for the model; every job in it occupies one of the server's 40 threads

Report = Callable[[Any], None]


class Cancelled(BaseException):
    """Stops a job. No Exception: batch generation records those as failures of one image and goes on."""


@dataclass(frozen=True)
class Progress:
    """How far a job is: steps done of all its steps, what is being made, and the forming image where it changed."""

    done: int
    total: int
    what: str
    preview: Image.Image | None = None


@dataclass(frozen=True)
class Waiting:
    """How many jobs are before this one in the queue for the model."""

    ahead: int


class QueueFull(ValueError):
    """There is no place left in the queue for the model."""


class Studio:
    """Holds the pipeline. `model` is the name, id or folder it was loaded from."""

    def __init__(self, pipe: Any, model: str) -> None:
        self.pipe, self.model = pipe, model
        self.tuned = tuned_settings(resolve(model))
        self.pipe.set_progress_bar_config(disable=True)
        self._queue: list[threading.Event] = []  # the jobs' stops; the job of the first one is running
        self._moved = threading.Condition()
        self._stops: dict[tuple[str, str], threading.Event] = {}

    @property
    def size(self) -> int:
        """The side of the model's images, in pixels."""
        return self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor

    def run(self, session: str, kind: str, job: Callable[[Report], Any]) -> Iterator[Any]:
        """Runs a job in a thread of its own when it is its turn and yields what it reports, its result last.

        Yields `Waiting` as long as its turn has not come, whenever its place in the queue changes. A visitor has one
        job of a kind at a time. Ends without a result if `stop` is called, or if the caller closes the iterator; what
        the job raises is raised here. Raises QueueFull.
        """
        stop, reports = threading.Event(), queue.SimpleQueue()
        self._stops[session, kind] = stop

        def report(item: Any) -> None:
            reports.put((False, item))

        def work() -> None:
            try:
                with self._turn(stop, report), self._stopping(stop):
                    result = job(report)
                reports.put((True, result))
            except Cancelled:
                reports.put((True, None))
            except BaseException as error:
                reports.put((True, error))

        threading.Thread(target=work, daemon=True, name=f"demo-{kind}").start()
        try:
            ended = False
            while not ended:
                ended, item = reports.get()
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
    def _stopping(self, stop: threading.Event) -> Iterator[None]:
        """Raises Cancelled at once if `stop` is set, else before the next denoiser call after that."""

        def check(*_: Any) -> None:
            if stop.is_set():
                raise Cancelled

        check()
        handle = self.pipe.unet.register_forward_pre_hook(check)
        try:
            yield
        finally:
            handle.remove()

    def previewer(self) -> Callable[[torch.Tensor], Image.Image | None]:
        """A function from latents to a picture, or None where it would come too early or cost too much time."""
        spent = 0.0
        first = last = time.monotonic()

        def preview(latents: torch.Tensor) -> Image.Image | None:
            nonlocal spent, last
            now = time.monotonic()
            if now - last < PREVIEW_SECONDS or spent > PREVIEW_SHARE * (now - first):
                return None
            with torch.no_grad():
                decoded = self.pipe.vae.decode(latents[:1] / self.pipe.vae.config.scaling_factor).sample
            image = self.pipe.image_processor.postprocess(decoded.nan_to_num(), output_type="pil")[0]
            last = time.monotonic()
            spent += last - now
            return image

        return preview


def load(model: str, device: str, dtype: str) -> Studio:
    """A studio with the model in memory. Raises ValueError if it cannot be loaded."""
    from attncontrol.cli.loading import load_pipeline

    return Studio(load_pipeline(model, device, dtype), model)
