"""Examples that show something. `python -m apps.demo_examples` measures them and writes examples.json."""

from __future__ import annotations

import base64
import json
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from attncontrol.demo import verdicts
from attncontrol.demo.result_view import Sheet, view
from attncontrol.demo.widgets import widget
from attncontrol.images.recipe import Recipe

FILE = Path(__file__).with_name("examples.json")
MODEL = "emoji"
SIDES = {"plain": "without", "control": "with"}


@cache
def read() -> list[dict[str, Any]]:
    """The examples.

    {"prompt", "method", "seed", "shows", "plain", "control", "maps", "recipes"}, perhaps "layout": "plain" and
    "control" are what became of every thing, "maps" says what is in the maps' file.
    """
    return json.loads(FILE.read_text(encoding="utf-8"))["examples"]


def first() -> dict[str, Any]:
    """The example that the page opens with."""
    return read()[0]


def picture_file(index: int, side: str) -> Path:
    """The stored picture of an example; `side` is "plain" or "control"."""
    return FILE.with_name("example_pictures") / f"{index}_{side}.webp"


def maps_file(index: int) -> Path:
    """The stored attention maps of an example, a `Sheet`."""
    return FILE.with_name("example_pictures") / f"{index}_maps.webp"


def result(index: int) -> dict[str, Any]:
    """The stored result of an example, as `result_view` shows it."""
    example = read()[index]
    sides = []
    for side in SIDES:
        with Image.open(picture_file(index, side)) as image:
            recipe = Recipe.from_json(json.dumps(example["recipes"][side]))
            sides.append((image.convert("RGB"), recipe, example[side]))
    with Image.open(maps_file(index)) as image:
        return view(sides, Sheet(image.convert("L"), **example["maps"]))


def values_of(index: int) -> dict[str, Any]:
    """The fields' values of an example."""
    fields = ("prompt", "method", "seed", "layout")
    return {name: value for name, value in read()[index].items() if name in fields}


def stored(model: str) -> dict[str, Any] | None:
    """The result that the page opens with, if this model made it."""
    return result(0) if model == MODEL else None


def cards(model: str) -> gr.HTML:
    """A card per example: its pictures, what became of every thing, a sentence. Its value is the index clicked.

    For another model than theirs there are none.
    """
    made = "".join(_card(index, example) for index, example in enumerate(read())) if model == MODEL else ""
    return widget("example-cards", {"index": -1}, inside=made)


def _card(index: int, example: dict[str, Any]) -> str:
    text = verdicts.sentence(example["plain"], example["control"])
    figures = "".join(_figure(index, side, example[side]) for side in SIDES)
    return (
        f'<button type="button" class="card" data-index="{index}"><span class="pair">{figures}</span>'
        f'<b>{escape(example["prompt"])}</b><span class="says">{escape(text)}</span></button>'
    )


def _figure(index: int, side: str, states: verdicts.States) -> str:
    data = base64.b64encode(picture_file(index, side).read_bytes()).decode()
    marks = "".join(
        f'<span class="{"yes" if state == verdicts.RIGHT else "no"}">{"✓" if state == verdicts.RIGHT else "✗"} '
        f'{escape(name)}<span class="sr-only"> is {escape(state)}</span></span>'
        for name, state in states
    )
    return (
        f'<span class="side"><small>{SIDES[side]}</small><img src="data:image/webp;base64,{data}" width="64" '
        f'height="64" alt="{SIDES[side]} control"><span class="verdict">{marks}</span></span>'
    )
