"""The same jobs on Ray Data: actors hold a pipeline each, the driver alone writes to the folder."""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from attncontrol.batch.jobs import Job
from attncontrol.batch.runner import Execute, Maker
from attncontrol.batch.worker import Outcome

SPARE_CPUS = 2  # logical ones, for the tasks that read the jobs: without them they wait for the actors forever
WINDOW = 4096  # batches that are handed to Ray at once, so that memory does not grow with the prompt files
RETRIES = 3  # of a batch whose worker died


class RayWorker:
    """The callable class of `map_batches`: loads the pipeline once, then turns pickled batches into outcomes."""

    def __init__(self, load: Callable[[], Maker]) -> None:
        self.maker = load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The outcomes of a batch's jobs, pickled as the jobs are."""
        outcomes = [pickle.dumps(self.maker.make(pickle.loads(jobs))) for jobs in batch["jobs"]]
        return {"number": batch["number"], "outcomes": np.array(outcomes, dtype=object)}


def ray_execute(
    load: Callable[[], Maker], *, workers: int | None = None, gpus: bool = True, address: str | None = None
) -> Execute:
    """An `execute` for `Run` that spreads batches over actors.

    A worker that dies is started again and its batch is redone; a batch that has lost RETRIES + 1 workers is given up.

    Args:
        load: Makes a worker's pipeline; must be picklable.
        workers: How many; by default one per GPU that Ray knows, or 1.
        gpus: Whether to use GPUs, one per worker, if there are any.
        address: Of a running cluster; None starts Ray on this machine.

    Raises:
        ValueError: If Ray is not installed or cannot be reached.
        ChildProcessError: If no worker can be started.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError("--engine ray needs Ray: pip install 'attncontrol[cluster]'") from error

    def execute(groups: Iterable[list[Job]]) -> Iterator[Outcome]:
        groups = iter(groups)
        window = list(islice(groups, WINDOW))
        if not window:
            return
        _connect(ray, workers or 1, address)
        context = ray.data.DataContext.get_current()
        context.max_errored_blocks = -1  # a lost batch does not end the run
        context.max_consecutive_actor_init_deaths = RETRIES  # nor a worker that dies before its first batch
        context.enable_progress_bars = False
        for handler in logging.getLogger("ray.data").handlers:
            if handler.name == "console":
                handler.setLevel(logging.CRITICAL)  # Ray's own files keep it all
        known = int(ray.cluster_resources().get("GPU", 0)) if gpus else 0
        try:
            while window:
                yield from _make(ray, window, load, workers or known or 1, bool(known))
                window = list(islice(groups, WINDOW))
        except ray.exceptions.RayError as error:
            raise ChildProcessError(f"the workers on Ray cannot go on: {_reason(error)}") from error
        finally:
            ray.shutdown()

    return execute


def _make(ray: Any, window: list[list[Job]], load: Callable[[], Maker], workers: int, gpus: bool) -> Iterator[Outcome]:
    """The outcomes of some batches as they come; those that no worker survived are failures at the end."""
    rows = [{"number": number, "jobs": pickle.dumps(group)} for number, group in enumerate(window)]
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        RayWorker,
        fn_constructor_args=(load,),
        batch_size=1,
        num_cpus=None if gpus else 1,
        num_gpus=1 if gpus else None,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        max_task_retries=RETRIES,
    )
    lost = dict(enumerate(window))
    for row in made.iter_rows():
        del lost[row["number"]]
        yield from pickle.loads(row["outcomes"])
    for group in lost.values():
        reason = f"{RETRIES + 1} workers died over the batch of {len(group)} it was in: try a smaller --batch-size"
        yield from (Outcome(job, reason=reason) for job in group)


def _reason(error: Exception) -> str:
    """What a worker raised: the last exception in the traceback that Ray makes a text of."""
    raised = re.findall(r"^[\w.]*(?:Error|Exception): (.+)", str(error), re.MULTILINE)
    return raised[-1] if raised else str(error).splitlines()[0]


def _check_address(address: str) -> None:
    """Ray itself tries for minutes before it gives up."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        if address in ("auto", "local"):
            return
        raise ValueError(f"cannot start or reach Ray at {address!r}: expected HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot start or reach Ray at {address!r}: {error}") from error


def _connect(ray: Any, workers: int, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": "warning"}
    if address is not None:
        _check_address(address)
    try:
        if address is None:
            ray.init(num_cpus=SPARE_CPUS + workers, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"cannot start or reach Ray at {address or 'this machine'}: {error}") from error
