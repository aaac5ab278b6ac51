"""The fields in the page's address: prompt, method, seed and boxes, so that a reload keeps and a link shares them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from attncontrol.arguments import DEFAULT_CONTROL, is_seed
from attncontrol.demo.schema import read_boxes
from attncontrol.demo.task import LONGEST

WRITE = Path(__file__).with_name("widgets").joinpath("address.js").read_text(encoding="utf-8")
READ = "(query, layout) => [location.search, layout]"
LARGEST = 10_000  # characters of a query


def read_address(query: Any) -> dict[str, Any] | None:
    """The fields' values in a query such as "?prompt=a+cat&seed=3"; None if it names no prompt.

    Raises:
        ValueError: If there is something in it that no page of ours writes.
    """
    if not isinstance(query, str) or len(query) > LARGEST:
        raise ValueError("the address of this page is too long; the fields show what they show at first.")
    given = {name: values[0] for name, values in parse_qs(query.removeprefix("?")).items()}
    if "prompt" not in given:
        return None
    seed, method = given.get("seed", "0"), given.get("method", DEFAULT_CONTROL)
    if not is_seed(seed) or len(method) > LONGEST:
        raise ValueError(
            "the address of this page has no usable seed or method; the fields show what they show at first."
        )
    return {"prompt": given["prompt"], "method": method, "seed": seed, "layout": _boxes(given.get("boxes"))}


def _boxes(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        layout: dict[str, Any] = {}
        for phrase, *box in json.loads(text):
            layout.setdefault(phrase, []).append(box)
    except (ValueError, TypeError, RecursionError):
        raise ValueError("the address of this page has boxes that cannot be read.") from None
    return read_boxes(layout)
