"""A cheap maker of images for tests of the machinery around it."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess as Process
from pathlib import Path

from PIL import Image

from attncontrol.batch import Job, OutputFolder, Plan, Run
from attncontrol.batch.runner import one_by_one
from attncontrol.batch.worker import Made, Outcome
from attncontrol.images.recipe import Recipe

FINGERPRINT = "stand-in"
PATIENCE = 300  # seconds; a wait that long is a failure on any machine


class StandIn:
    """Images of noise seeded by the job; prompts with "fail" fail, "please die" ends the process.

    `seconds` is the time of a batch, `log` a file, `most` the number of batches after which it waits to be killed.
    """

    def __init__(self, seconds: float = 0.0, log: Path | None = None, most: int | None = None) -> None:
        self.seconds, self.log, self.left = seconds, log, most

    def make(self, jobs: Sequence[Job]) -> list[Outcome]:
        if self.left == 0:
            wait_to_be_killed()
        self.left = None if self.left is None else self.left - 1
        time.sleep(self.seconds)
        if self.log:
            with self.log.open("a") as file:
                file.writelines(f"{job.name} {os.getpid()}\n" for job in jobs)
        if any(job.prompt == "please die" for job in jobs):
            os._exit(1)
        return [self._outcome(job) for job in jobs]

    def _outcome(self, job: Job) -> Outcome:
        if "fail" in job.prompt:
            return Outcome(job, reason="told to fail")
        image = Image.frombytes("RGB", (32, 32), pixels(job))
        asked = job.sampling
        recipe = Recipe(
            job.prompt, job.seed, asked.steps, asked.guidance_scale, 32, 32, "stand-in", "none", "float32",
            control=tuple(job.control or ()), layout=job.layout,
        )  # fmt: skip
        return Outcome(job, Made(image, recipe, [], self.seconds))


def wait_to_be_killed() -> None:
    """Holds a process up until it is killed, or ends it once the test that should do so is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)


def wait_until(condition: Callable[[], object], process: Process | subprocess.Popen) -> None:
    """Waits for a condition that a process brings about. Raises AssertionError if the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        alive = process.poll() is None if isinstance(process, subprocess.Popen) else process.is_alive()
        assert alive and time.monotonic() < deadline, "the process has ended or makes no progress"
        time.sleep(0.002)


def pixels(job: Job) -> bytes:
    digest = hashlib.sha256(f"{job.prompt} {job.seed}".encode()).digest()
    return random.Random(digest).randbytes(32 * 32 * 3)


def run(files: Sequence[Path], output: Path, *, batch_size: int = 8, maker: StandIn | None = None, **plan):
    """A run in this process over the valid rows of files; keywords as `Plan` has them."""
    return run_with(one_by_one(maker or StandIn()), files, output, batch_size, **plan)


def run_with(execute, files: Sequence[Path], output: Path, batch_size: int = 8, **plan):
    plan = Plan(list(files), **plan)
    return Run(plan, OutputFolder(output), FINGERPRINT, execute, batch_size)(plan.check(lambda problem: None))
