"""Results as HTML: pictures, progress, verdicts. All text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from attncontrol.demo.studio import Progress, Studio
from attncontrol.evaluation import oracle
from attncontrol.images.drawing import Drawn
from attncontrol.images.visualize import enlarge
from attncontrol.models import BUNDLED


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


def progress(report: Progress) -> str:
    """A bar, and what is being made."""
    percent = 100 * report.done / report.total
    return (
        f'<div class="progress"><div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="{report.total}" '
        f'aria-valuenow="{report.done}" aria-label="Progress"><span style="width:{percent:.1f}%"></span></div>'
        f"<p>step {report.done} of {report.total} · {escape(report.what)}</p></div>"
    )


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
