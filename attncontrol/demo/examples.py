"""Examples that show something. `python -m apps.demo_examples` measures them and writes examples.json."""

from __future__ import annotations

import base64
import json
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from attncontrol.demo import pictures

FILE = Path(__file__).with_name("examples.json")
WRONG = {"missing": "forgot", "wrong colour": "gave a wrong colour to", "misplaced": "misplaced"}


@cache
def read() -> list[dict[str, Any]]:
    """The examples: {"prompt", "method", "seed", "shows", "plain", "control"}, perhaps "layout"."""
    return json.loads(FILE.read_text(encoding="utf-8"))["examples"]


def picture_file(index: int, side: str) -> Path:
    """The stored picture of an example; `side` is "plain" or "control"."""
    return FILE.with_name("example_pictures") / f"{index}_{side}.webp"


def table() -> gr.Dataset:
    """A table to choose an example from."""
    samples = [[before_and_after(i), e["prompt"], sentence(e["plain"])] for i, e in enumerate(read())]
    return gr.Dataset(
        components=[gr.HTML(visible=False), gr.Textbox(visible=False), gr.Textbox(visible=False)],
        samples=samples,
        headers=["without and with control", "prompt", "what it shows"],
        label="Examples (one click fills in the fields and shows the stored pictures; Generate makes them anew)",
        type="index",
        elem_id="examples",
    )


def before_and_after(index: int) -> str:
    """The two stored pictures side by side, each with a verdict on every thing."""
    example, figures = read()[index], []
    for side, title in (("plain", "without control"), ("control", f"with {example['method']}")):
        data = base64.b64encode(picture_file(index, side).read_bytes()).decode()
        found = "; ".join(f"{name}: {state}" for name, state in example[side])
        marks = pictures.verdict([(name, state == "right") for name, state in example[side]])
        figures.append(
            f'<figure><img src="data:image/webp;base64,{data}" alt="{escape(title)}: {escape(found)}">'
            f"<figcaption>{escape(title)}{marks}</figcaption></figure>"
        )
    return f'<div class="before-after">{"".join(figures)}</div>'


def sentence(plain: list[list[str]]) -> str:
    """What plain sampling did wrong, and that control mends it."""
    wrong = " and ".join(f"{WRONG[state]} the {name}" for name, state in plain if state != "right")
    return f"The model {wrong}. With attention control it is right."


def values_of(index: int) -> dict[str, Any]:
    """The fields' values of an example."""
    fields = ("prompt", "method", "seed", "layout")
    return {name: value for name, value in read()[index].items() if name in fields}
