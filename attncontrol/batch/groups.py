"""Putting jobs of equal settings into batches, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attncontrol.batch.jobs import Job

WAITING_BATCHES = 32


def batches(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """Batches of at most `size` jobs with equal settings, made of what lies near together in the stream.

    At most WAITING_BATCHES times `size` jobs are held back; when there are more, the largest group leaves unfilled.
    """
    groups: dict[str, list[Job]] = {}
    waiting = 0
    for job in jobs:
        group = groups.setdefault(job.settings, [])
        group.append(job)
        waiting += 1
        if len(group) < size and waiting < WAITING_BATCHES * size:
            continue
        full = max(groups, key=lambda settings: len(groups[settings]))
        waiting -= len(groups[full])
        yield groups.pop(full)
    yield from groups.values()
