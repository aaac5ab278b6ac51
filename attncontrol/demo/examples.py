"""Examples that show something, for each bundled model: `python -m apps.demo_examples` measures and stores them."""

from __future__ import annotations

import base64
import json
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from attncontrol.arguments import DEFAULT_CONTROL
from attncontrol.demo import verdicts
from attncontrol.demo.result_view import Sheet, view
from attncontrol.demo.widgets import widget
from attncontrol.images.recipe import Recipe
from attncontrol.models import BUNDLED

FOLDER = Path(__file__).with_name("stored")
SIDES = {"plain": "without", "control": "with"}
OPENING = {"prompt": "a bird and a suitcase", "method": DEFAULT_CONTROL, "seed": 0}


def file(model: str, name: str) -> Path:
    """A file of a bundled model's examples: examples.json, N_plain.webp, N_control.webp, or N_maps.webp, a `Sheet`."""
    return FOLDER / model / name


@cache
def read(model: str) -> list[dict[str, Any]]:
    """A bundled model's examples; none for other models, of which these would show nothing.

    {"prompt", "method", "seed", "shows", "plain", "control", "maps", "recipes"}, perhaps "layout": "plain" and
    "control" are what became of every thing, "maps" says what is in the maps' file.
    """
    if model not in BUNDLED:
        return []
    return json.loads(file(model, "examples.json").read_text(encoding="utf-8"))["examples"]


def opening(model: str) -> dict[str, Any]:
    """The prompt, method and seed that the page opens with: of the first example, where there is one."""
    return values_of(model, 0) if read(model) else OPENING


def result(model: str, index: int) -> dict[str, Any]:
    """The stored result of an example, as `result_view` shows it."""
    example = read(model)[index]
    sides = []
    for side in SIDES:
        with Image.open(file(model, f"{index}_{side}.webp")) as image:
            recipe = Recipe.from_json(json.dumps(example["recipes"][side]))
            sides.append((image.convert("RGB"), recipe, example[side]))
    with Image.open(file(model, f"{index}_maps.webp")) as image:
        return view(sides, Sheet(image.convert("L"), **example["maps"]))


def stored(model: str) -> dict[str, Any] | None:
    """The result that the page opens with, if there is one."""
    return result(model, 0) if read(model) else None


def values_of(model: str, index: int) -> dict[str, Any]:
    """The fields' values of an example."""
    fields = ("prompt", "method", "seed", "layout")
    return {name: value for name, value in read(model)[index].items() if name in fields}


def cards(model: str) -> gr.HTML:
    """A card per example: its pictures, what became of every thing, a sentence. Its value is the index clicked."""
    made = "".join(_card(model, index, example) for index, example in enumerate(read(model)))
    return widget("example-cards", {"index": -1}, inside=made)


def _card(model: str, index: int, example: dict[str, Any]) -> str:
    text = verdicts.sentence(example["plain"], example["control"])
    figures = "".join(_figure(file(model, f"{index}_{side}.webp"), side, example[side]) for side in SIDES)
    return (
        f'<button type="button" class="card" data-index="{index}"><span class="pair">{figures}</span>'
        f'<b>{escape(example["prompt"])}</b><span class="says">{escape(text)}</span></button>'
    )


def _figure(path: Path, side: str, states: verdicts.States) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    marks = "".join(
        f'<span class="{"yes" if state == verdicts.RIGHT else "no"}">{"✓" if state == verdicts.RIGHT else "✗"} '
        f'{escape(name)}<span class="sr-only"> is {escape(state)}</span></span>'
        for name, state in states
    )
    return (
        f'<span class="side"><small>{SIDES[side]}</small><img src="data:image/webp;base64,{data}" width="64" '
        f'height="64" alt="{SIDES[side]} control"><span class="verdict">{marks}</span></span>'
    )
