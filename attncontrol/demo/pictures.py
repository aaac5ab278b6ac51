"""Results as HTML: pictures, attention maps, progress, verdicts. All text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

from attncontrol.demo.studio import Progress, Studio
from attncontrol.demo.task import Pair
from attncontrol.evaluation import oracle
from attncontrol.images.drawing import Drawn
from attncontrol.images.visualize import enlarge, overlay, subject_maps
from attncontrol.models import BUNDLED

MAP_SIDE = 192


def picture(image: Image.Image, alt: str, side: int = 256) -> str:
    """An <img> of the image, enlarged to `side` if it is smaller."""
    buffer = io.BytesIO()
    enlarge(image, side).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def figure(image: Image.Image, alt: str, caption: str, side: int = 256) -> str:
    """A picture with a caption, which is HTML."""
    return f"<figure>{picture(image, alt, side)}<figcaption>{caption}</figcaption></figure>"


def notice(text: str, kind: str = "") -> str:
    """A line about the state of things."""
    return f'<p class="notice {kind}" role="status">{escape(text)}</p>' if text else ""


def error(text: str) -> str:
    """A sentence beside the field it is about."""
    return f'<p class="field-error" role="alert">{escape(text)}</p>' if text else ""


def progress(report: Progress, preview: Image.Image | None) -> str:
    """A bar, what is being made, and the forming image."""
    percent = 100 * report.done / report.total
    forming = figure(preview, "the forming image", "forming", 256) if preview else ""
    return (
        f'<div class="progress"><div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="{report.total}" '
        f'aria-valuenow="{report.done}" aria-label="Progress"><span style="width:{percent:.1f}%"></span></div>'
        f"<p>step {report.done} of {report.total} · {escape(report.what)}</p>{forming}</div>"
    )


def attention(pair: Pair, step: int) -> str:
    """Every subject's map at a sampling step (0: the mean of all) over the plain and the controlled image.

    The maps of one subject share a scale, so plain and controlled can be compared.
    """
    rows = [("plain", pair.plain), ("with control", pair.controlled)] if pair.controlled else [("plain", pair.plain)]
    maps = [_maps(drawn, step) for _, drawn in rows]
    if not maps[0]:
        return notice(
            "There are no attention maps: no subject was found in the prompt. Choose one by clicking a word."
        )
    figures = []
    for subject in maps[0]:
        peak = max(float(m[subject].max()) for m in maps)
        for (title, drawn), m in zip(rows, maps, strict=True):
            laid = overlay(enlarge(drawn.image, MAP_SIDE), m[subject], peak=peak)
            alt = f"attention of {subject}, {title}"
            figures.append(figure(laid, alt, f"<b>{escape(subject)}</b> {title}", MAP_SIDE))
    return f'<div class="maps" style="--columns:{len(rows)}">{"".join(figures)}</div>'


def _maps(drawn: Drawn, step: int) -> dict[str, Any]:
    record = drawn.record
    if record is None or record.maps is None:
        return {}
    names = subject_maps(record)
    return names if step == 0 else dict(zip(names, record.maps[step - 1], strict=True))


def judge(studio: Studio, drawn: Drawn) -> list[tuple[str, bool]] | None:
    """The oracle's verdict on every thing that the prompt names.

    None if it knows none of them, or another model made the image: the oracle knows the bundled model's world only.
    """
    if studio.model not in BUNDLED:
        return None
    try:
        expected = oracle.expected_from_prompt(drawn.recipe.prompt)
    except ValueError:
        return None
    verdict = oracle.verdict(expected, drawn.image)
    names = (f"{colour} {name}" if colour else name for name, colour in expected)
    return list(zip(names, verdict.coloured, strict=True))


def verdict(judged: Sequence[tuple[str, bool]]) -> str:
    """What `judge` found as HTML."""
    marks = (
        f'<span class="{"yes" if right else "no"}">{"✓" if right else "✗"} {escape(name)}'
        f'<span class="sr-only">{" is there" if right else " is missing or wrong"}</span></span>'
        for name, right in judged
    )
    return f'<span class="verdict">{" ".join(marks)}</span>'


def comparison(titles: Sequence[str], seeds: Sequence[int], cells: Sequence[Sequence[tuple[Image.Image, str]]]) -> str:
    """A table: a row per seed, a column per method; cells are the pictures and captions (HTML) made so far."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    rows = []
    for seed, row in zip(seeds, cells, strict=False):
        made = "".join(
            f"<td>{figure(image, f'{title}, seed {seed}', caption)}</td>"
            for title, (image, caption) in zip(titles, row, strict=False)
        )
        missing = '<td><div class="pending"></div></td>' * (len(titles) - len(row))
        rows.append(f'<tr><th scope="row">seed {seed}</th>{made}{missing}</tr>')
    return f'<div class="scroll"><table class="comparison"><tr><td></td>{head}</tr>{"".join(rows)}</table></div>'


def boxes_over(image: Image.Image, boxes: Sequence[dict[str, Any]]) -> str:
    """The picture with the layout's boxes drawn over it."""
    frames = "".join(
        f'<span class="box" data-colour="{i % 6}" style="left:{x0 * 100:.1f}%;top:{y0 * 100:.1f}%;'
        f'width:{(x1 - x0) * 100:.1f}%;height:{(y1 - y0) * 100:.1f}%">'
        f'<span class="name">{escape(item["phrase"])}</span></span>'
        for i, item in enumerate(boxes)
        for x0, y0, x1, y1 in [item["box"]]
    )
    return f'<div class="boxed">{picture(image, "the result with the boxes of the layout", 320)}{frames}</div>'
