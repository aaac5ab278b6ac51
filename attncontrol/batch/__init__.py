"""Batch generation from prompt files: validated first, resumable at any moment, on one machine or a cluster."""

from attncontrol.batch.folder import FolderBusyError, OutputFolder
from attncontrol.batch.formats import Problem
from attncontrol.batch.jobs import Job
from attncontrol.batch.plan import Plan
from attncontrol.batch.runner import Counts, Run
from attncontrol.batch.worker import Outcome, Worker, WorkerSettings

__all__ = [
    "Counts",
    "FolderBusyError",
    "Job",
    "Outcome",
    "OutputFolder",
    "Plan",
    "Problem",
    "Run",
    "Worker",
    "WorkerSettings",
]
