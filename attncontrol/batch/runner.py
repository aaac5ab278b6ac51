"""A batch run: what is missing is made, written and counted, on this machine or on Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from attncontrol.batch.folder import OutputFolder
from attncontrol.batch.groups import batches
from attncontrol.batch.jobs import Job
from attncontrol.batch.plan import Plan
from attncontrol.batch.worker import Outcome
from attncontrol.images.files import sha256
from attncontrol.images.recipe import package_versions

Execute = Callable[[Iterable[list[Job]]], Iterator[Outcome]]
FAILURES_SHOWN = 20


class Maker(Protocol):
    """What makes images; `Worker` is the real one."""

    def make(self, jobs: Sequence[Job]) -> list[Outcome]:
        """An outcome for every job."""


def one_by_one(maker: Maker) -> Execute:
    """Makes the batches in this process, one after the other."""

    def execute(groups: Iterable[list[Job]]) -> Iterator[Outcome]:
        for group in groups:
            yield from maker.make(group)

    return execute


@dataclass
class Counts:
    """How far a run is. `found`: done before; `steps`: of the images made; `seconds` since the start.

    `failures` has the first FAILURES_SHOWN of the `failed` jobs with their reasons; failures.jsonl has all.
    """

    total: int
    found: int = 0
    made: int = 0
    failed: int = 0
    steps: int = 0
    failures: list[tuple[Job, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Images made per second, 0 before the first."""
        return self.made / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """What the rest takes at this rate; None before the first image."""
        left = self.total - self.found - self.made - self.failed
        return left / self.rate if self.rate else None


@dataclass
class Run:
    """One run of a plan into a folder.

    `model` is the fingerprint of what makes the images besides the jobs (`Worker.fingerprint`), `execute` makes the
    batches, `progress` is called after every job found done, made or failed. `settings` goes into run.json.
    `maps`: whether a job is done only with its overlays.
    """

    plan: Plan
    folder: OutputFolder
    model: str
    execute: Execute
    batch_size: int = 8
    progress: Callable[[Counts], None] = lambda counts: None
    settings: dict[str, Any] = field(default_factory=dict)
    maps: bool = False

    def __call__(self, total: int, wait: bool = False) -> Counts:
        """Makes what is missing of the plan's `total` jobs.

        metadata.jsonl and run.json are written at the end, an interruption included.

        Raises:
            FolderBusyError: If another run holds the folder and `wait` is not set.
        """
        with self.folder.locked(wait):
            self.counts = Counts(total)
            started, ended = datetime.now(UTC), "interrupted"
            try:
                self._make_missing()
                ended = "with failures" if self.counts.failed else "complete"
            finally:
                self._write_summary(started, ended)
        return self.counts

    def _make_missing(self) -> None:
        started = time.perf_counter()
        self.folder.clear_failures()
        for outcome in self.execute(batches(self._missing(), self.batch_size)):
            if outcome.made is None:
                self._fail(outcome.job, outcome.reason or "unknown")
            else:
                self.folder.add(outcome.job, outcome.job.key(self.model), outcome.made)
                self.counts.made += 1
                self.counts.steps += outcome.job.sampling.steps
            self.counts.seconds = time.perf_counter() - started
            self.progress(self.counts)

    def _fail(self, job: Job, reason: str) -> None:
        self.folder.add_failure(job, reason)
        self.counts.failed += 1
        if self.counts.failed <= FAILURES_SHOWN:
            self.counts.failures.append((job, reason))

    def _missing(self) -> Iterator[Job]:
        for job in self.plan.jobs():
            if self.folder.has(job, job.key(self.model), self.maps):
                self.counts.found += 1
                self.progress(self.counts)
            else:
                yield job

    def _write_summary(self, started: datetime, ended: str) -> None:
        counts, before = self.counts, self.folder.run()
        images = self.folder.write_metadata()
        self.folder.write_run(
            {
                "ended": ended,
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(counts.seconds, 2),
                "seconds_of_all_runs": round(counts.seconds + before.get("seconds_of_all_runs", 0.0), 2),
                "images_per_second": round(counts.rate, 4),
                "seconds_per_step": round(counts.seconds / counts.steps, 5)
                if counts.steps
                else before.get("seconds_per_step"),
                "jobs": counts.total,
                "made": counts.made,
                "found": counts.found,
                "failed": counts.failed,
                "images_in_folder": images,
                "model_sha256": self.model,
                "versions": package_versions(),
                "files": [{"file": str(file), "sha256": sha256(self.plan.content(file))} for file in self.plan.files],
                "defaults": dict(self.plan.defaults),
                "limit": self.plan.limit,
                "shard": self.plan.shard,
                "batch_size": self.batch_size,
                **self.settings,
            }
        )
