"""A checked prompt file becomes pictures, which are reported as they come, and a zip."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from attncontrol.batch import Counts, OutputFolder, Plan, Run, Worker
from attncontrol.batch.exports import write_contact_sheets
from attncontrol.batch.jobs import Job
from attncontrol.batch.runner import one_by_one
from attncontrol.batch.worker import Outcome
from attncontrol.demo.studio import Progress, Report, Studio
from attncontrol.evaluation.metrics import create_metric
from attncontrol.evaluation.report import write_reports
from attncontrol.evaluation.scoring import score_folder
from attncontrol.models import BUNDLED

BATCH_SIZE = 4


def run_batch(studio: Studio, plan: Plan, jobs: int, report: Report) -> tuple[Counts, str]:
    """Makes the images in a folder of their own; returns the counts and the zip's path.

    Reports every image as the batch worker's `Made`, and `Progress` after it.
    """
    (source,) = plan.files
    folder = OutputFolder(Path(tempfile.mkdtemp(prefix="attncontrol-")) / source.stem)
    worker = Worker(studio.pipe, studio.model)

    def execute(groups: Iterable[list[Job]]) -> Iterator[Outcome]:
        for outcome in one_by_one(worker)(groups):
            if outcome.made:
                report(outcome.made)
            yield outcome

    def progress(counts: Counts) -> None:
        done = counts.found + counts.made + counts.failed
        report(Progress(done, counts.total, f"{counts.failed} failed" if counts.failed else "images"))

    counts = Run(plan, folder, worker.fingerprint(), execute, BATCH_SIZE, progress)(jobs)
    if counts.made:
        describe(studio, folder)
    return counts, zipped(folder, source)


def describe(studio: Studio, folder: OutputFolder) -> None:
    """Writes what is to be looked at first: contact sheets, and a report, with scores where the oracle has any."""
    write_contact_sheets(folder)
    lines = score_folder(folder.path, [create_metric("oracle")] if studio.model in BUNDLED else [])
    title = f"Images of {folder.path.name}"
    write_reports(folder.path / "report", title, {"": folder.path}, [{**line, "run": ""} for line in lines])


def zipped(folder: OutputFolder, source: Path) -> str:
    """The folder as a zip in its place, without the lock and without the uploaded file's place on this server."""
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
    shutil.rmtree(folder.path)
    return str(path)
