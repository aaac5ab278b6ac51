"""`attncontrol evaluate`: scores of a batch folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attncontrol.cli import checks, options
from attncontrol.cli.errors import option
from attncontrol.cli.loading import check_device, console


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `attncontrol batch` wrote.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="oracle, clip or blip; may be given again. By default the oracle. VQAScore is not among them: no "
            "release of t2v-metrics runs beside the torch and transformers needed here.",
        ),
    ] = None,
    clip_model: Annotated[str | None, typer.Option("--clip-model", metavar="ID", help="For clip and blip.")] = None,
    blip_model: Annotated[str | None, typer.Option("--blip-model", metavar="ID", help="For blip.")] = None,
    device: options.Device = "cpu",
) -> None:
    """Score a batch folder: writes scores.jsonl, report.md and report.html into it.

    Tables are by method and prompt set, with bootstrap intervals. Scores of earlier evaluations are kept for images
    that have not changed.
    """
    if not folder.is_dir():
        raise ValueError(f"DIR: there is no folder {str(folder)!r}")
    checks.check_device(device)
    from attncontrol.evaluation.metrics import create_metric
    from attncontrol.evaluation.report import markdown, write_reports
    from attncontrol.evaluation.scoring import score_folder

    with option("--device"):
        check_device(device)
    with option("--metric"):
        metrics = [
            create_metric(name, device=device, clip_model=clip_model, blip_model=blip_model)
            for name in dict.fromkeys(metric or ["oracle"])
        ]
    with console.status("scoring") as status:
        lines = score_folder(folder, metrics, lambda count: status.update(f"{count} images scored"))
    title = f"Evaluation of {folder.resolve().name}"
    write_reports(folder / "report", title, {"": folder}, [{**line, "run": ""} for line in lines])
    typer.echo(markdown(title, lines))
    typer.echo(f"scores.jsonl, report.md and report.html in {folder}")
