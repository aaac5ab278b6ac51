"""Reports: tables in Markdown, and an HTML page with the worst and best images inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from attncontrol.batch.folder import OutputFolder
from attncontrol.evaluation.metrics.base import Metric
from attncontrol.evaluation.summary import Cell, Table, extremes, score_names, tables
from attncontrol.images.files import write_text

SHOWN = 8
THUMBNAIL = 192
OVERLAYS_WIDTH = 640
HEADINGS = ("prompt set", "method", "images", "mean", "95% interval")
OF_DIFFERENCES = ("difference", "95% interval", "p (McNemar)")


def descriptions() -> dict[str, str]:
    """What each score means, without loading a model."""
    from attncontrol.evaluation.metrics.blip_caption import BlipCaption
    from attncontrol.evaluation.metrics.clip_similarity import ClipSimilarity
    from attncontrol.evaluation.metrics.oracle_success import OracleSuccess

    metrics: tuple[type[Metric], ...] = (OracleSuccess, ClipSimilarity, BlipCaption)
    return {name: text for metric in metrics for name, text in metric.columns.items()}


def markdown(title: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """A table per score. Differences are to the baseline, on the same prompts and seeds."""
    means = descriptions()
    text = [f"# {title}", "", _extent(lines), ""]
    for table in tables(lines):
        heading, *rows = _rows(table)
        text += [f"## {table.score}", "", _meaning(table, means), ""]
        text += ["| " + " | ".join(heading) + " |", "| --- | --- |" + " ---: |" * (len(heading) - 2)]
        text += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows] + [""]
    return "\n".join(text)


def write_reports(target: Path, title: str, folders: Mapping[str, Path], lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes `target`.md and `target`.html. `folders`: the folder of each line's "run", where its image lies."""
    write_text(target.with_name(target.name + ".md"), markdown(title, lines), overwrite=True)
    means = descriptions()
    environment = Environment(
        loader=PackageLoader("attncontrol.evaluation", "."), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        extent=_extent(lines),
        tables=[(table.score, _meaning(table, means), _rows(table)) for table in tables(lines)],
        galleries=_galleries(folders, lines),
    )
    write_text(target.with_name(target.name + ".html"), page, overwrite=True)


def _meaning(table: Table, means: Mapping[str, str]) -> str:
    """A sentence on a score and its differences; scores that others have added to scores.jsonl are not explained."""
    what = [f"{means[table.score][0].upper()}{means[table.score][1:]}."] if table.score in means else []
    compared = [f"Differences are to {table.baseline}, on the same prompts and seeds."] if _compares(table) else []
    return " ".join(what + compared)


def _extent(lines: Sequence[Mapping[str, Any]]) -> str:
    prompts = len({(line["prompt_set"], line["prompt"]) for line in lines})
    counts = ((len(lines), "image"), (prompts, "prompt"), (len({line["method"] for line in lines}), "method"))
    return ", ".join(f"{count} {what}{'s' * (count > 1)}" for count, what in counts) + "."


def _compares(table: Table) -> bool:
    return any(cell.difference is not None for cell in table.cells.values())


def _rows(table: Table) -> list[list[str]]:
    """The heading and the rows; the columns of differences only where there are some."""
    heading = [*HEADINGS, *(OF_DIFFERENCES if _compares(table) else ())]
    rows = [[prompt_set, method, *_cells(cell)] for (prompt_set, method), cell in table.cells.items()]
    return [heading, *(row[: len(heading)] for row in rows)]


def _cells(cell: Cell) -> list[str]:
    numbers = [str(cell.images), f"{cell.mean:.3f}", f"{cell.low:.3f} to {cell.high:.3f}"]
    if cell.difference is None:
        return [*numbers, "", "", ""]
    p_value = "" if cell.p_value is None else f"{cell.p_value:.2g}"
    interval = f"{cell.difference_low:+.3f} to {cell.difference_high:+.3f}"
    return [*numbers, f"{cell.difference:+.3f}", interval, p_value]


def _galleries(folders: Mapping[str, Path], lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, list]]:
    """Worst and best images of every method by the first score."""
    names = score_names(lines)
    galleries = []
    for method in dict.fromkeys(line["method"] for line in lines) if names else ():
        worst, best = extremes([line for line in lines if line["method"] == method], names[0], SHOWN)
        for kind, chosen in (("worst", worst), ("best", best)):
            if chosen:
                heading = f"{method}: {kind} by {names[0]}"
                galleries.append((heading, [_figure(folders[line["run"]], line, names[0]) for line in chosen]))
    return galleries


def _figure(folder: Path, line: Mapping[str, Any], score: str) -> dict[str, Any]:
    """The image; where its attention overlays are saved, these, which begin with it."""
    image = _inside(folder, folder / line["file_name"])
    overlays = OutputFolder(folder).maps / image.name
    wide = overlays.is_file()
    return {
        "image": _data_uri(_inside(folder, overlays), OVERLAYS_WIDTH) if wide else _data_uri(image, THUMBNAIL),
        "wide": wide,
        "caption": f"{line['prompt']} (seed {line['seed']}): {line['scores'][score]:.3g}",
    }


def _inside(folder: Path, path: Path) -> Path:
    """The path itself. Raises ValueError if it, or what it links to, is no file of the folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{str(path)!r} is not in the folder {str(folder)!r}: a report shows only images of its folders"
        )
    return path


def _data_uri(path: Path, width: int) -> str:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((width, width))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
