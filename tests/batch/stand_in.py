"""A cheap maker of images for tests of the machinery around it."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from attncontrol.batch import Job, OutputFolder, Plan, Run
from attncontrol.batch.runner import one_by_one
from attncontrol.batch.worker import Made, Outcome
from attncontrol.imagefile import Recipe

FINGERPRINT = "stand-in"


class StandIn:
    """Images of noise seeded by the job; prompts with "fail" fail, "please die" ends the process.

    `seconds` is the time of a batch, `log` a file.
    """

    def __init__(self, seconds: float = 0.0, log: Path | None = None) -> None:
        self.seconds, self.log = seconds, log

    def make(self, jobs: Sequence[Job]) -> list[Outcome]:
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
        recipe = Recipe(
            job.prompt, job.seed, job.steps, job.guidance_scale, 32, 32, "stand-in", "none", "float32",
            control=tuple(job.control or ()), layout=job.layout,
        )  # fmt: skip
        return Outcome(job, Made(image, recipe, [], self.seconds))


def pixels(job: Job) -> bytes:
    digest = hashlib.sha256(f"{job.prompt} {job.seed}".encode()).digest()
    return random.Random(digest).randbytes(32 * 32 * 3)


def run(files: Sequence[Path], output: Path, *, batch_size: int = 8, maker: StandIn | None = None, **plan):
    """A run in this process over the valid rows of files; keywords as `Plan` has them."""
    return run_with(one_by_one(maker or StandIn()), files, output, batch_size, **plan)


def run_with(execute, files: Sequence[Path], output: Path, batch_size: int = 8, **plan):
    plan = Plan(list(files), **plan)
    return Run(plan, OutputFolder(output), FINGERPRINT, execute, batch_size)(plan.check(lambda problem: None))
