"""`attncontrol report`: evaluated batch folders compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attncontrol.cli import checks


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that were evaluated.")],
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="Name of the .md and .html files, without extension.")
    ] = Path("comparison"),
) -> None:
    """Compare evaluated runs, on the prompts and seeds they share.

    Every method of a folder is a row; a method that comes in several folders is called by its folder as well.
    """
    names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError("DIR: a folder is given twice")
    for folder in folders:
        checks.check_evaluated(folder)

    from attncontrol.evaluation.report import markdown, write_reports
    from attncontrol.evaluation.scoring import read_scores

    runs = {name: read_scores(folder) for name, folder in zip(names, folders, strict=True)}
    owners: dict[str, set[str]] = {}
    for name, lines in runs.items():
        for line in lines:
            owners.setdefault(line["method"], set()).add(name)
    merged = [
        {
            **line,
            "run": name,
            "method": line["method"] if len(owners[line["method"]]) == 1 else f"{line['method']} ({name})",
        }
        for name, lines in runs.items()
        for line in lines
    ]
    title = f"Comparison of {', '.join(names)}"
    write_reports(output, title, dict(zip(names, folders, strict=True)), merged)
    typer.echo(markdown(title, merged))
    typer.echo(f"{output}.md and {output}.html")
