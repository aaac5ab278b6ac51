"""Examples that show something. `python -m apps.demo_examples` measures them and writes examples.json."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

FILE = Path(__file__).with_name("examples.json")


@cache
def read() -> list[dict[str, Any]]:
    """The examples: {"prompt", "method", "seed", "shows"}, perhaps "layout"."""
    return json.loads(FILE.read_text(encoding="utf-8"))["examples"]


def table() -> gr.Dataset:
    """A table to choose an example from."""
    columns = [gr.Textbox(visible=False) for _ in range(3)]
    samples = [[e["prompt"], e["method"], e["shows"]] for e in read()]
    return gr.Dataset(
        components=columns,
        samples=samples,
        headers=["prompt", "method", "what it shows"],
        label="Examples (fill in the fields; then press Generate)",
        type="index",
        elem_id="examples",
    )


def values_of(index: int) -> dict[str, Any]:
    """The fields' values of an example."""
    example = dict(read()[index])
    example.pop("shows")
    return example
