"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attncontrol.arguments import LARGEST_SEED, PLAIN, is_seed, read_assignment
from attncontrol.cli import catalog
from attncontrol.cli.errors import option

if TYPE_CHECKING:
    from attncontrol.losses import MethodSum

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.", show_default=False)]
Subjects = Annotated[
    list[str] | None,
    typer.Option(
        "--subjects",
        metavar="WORDS",
        help="What must be in the image: words or phrases of the prompt or token indices, separated by commas, or a "
        "JSON list with groups of them. Parsed from the prompt if absent.",
    ),
]
LayoutFile = Annotated[
    str | None,
    typer.Option(
        "--layout", metavar="FILE", help="JSON file of phrases and their boxes (x0, y0, x1, y1 in 0..1), or 'auto'."
    ),
]
Grounding = Annotated[
    Literal["gligen", "reground"] | None,
    typer.Option(
        "--grounding",
        help="Also tell the model of the layout, by the gates of a GLIGEN checkpoint in its own wiring or ReGround's.",
    ),
]
GroundingBeta = Annotated[
    float | None,
    typer.Option(
        "--grounding-beta",
        min=0,
        max=1,
        help="Fraction of sampling in which the gates are open; 0.3 for gligen and 1 for reground by default.",
    ),
]
NegativePrompt = Annotated[str, typer.Option("--negative-prompt", help="What not to draw.", show_default=False)]
Seed = Annotated[str, typer.Option("--seed", metavar="NUMBER", help="Of the noise; or 'random'.")]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", min=1, max=1000, help="Sampling steps; the model's by default: 28 for emoji-flux, else 30."
    ),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        help="Guidance scale; the model's by default: 3.5 for emoji-flux, 3 for emoji, 5 for XL, 7.5 for other Stable "
        "Diffusions.",
    ),
]
Width = Annotated[
    int | None, typer.Option("--width", min=8, help="In pixels, a multiple of 8; the model's by default.")
]
Height = Annotated[
    int | None, typer.Option("--height", min=8, help="In pixels, a multiple of 8; the model's by default.")
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="ID",
        help="'emoji-flux', the bundled FLUX, 'emoji', the bundled Stable Diffusion, or the id or folder of another.",
    ),
]
UNetModel = Annotated[
    str,
    typer.Option("--model", metavar="ID", help="'emoji', the bundled one, or a Stable Diffusion id or folder."),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[Literal["float32", "float16", "bfloat16"], typer.Option("--dtype", help="Precision of the model.")]
Memory = Annotated[
    Literal["auto", "fast", "low"],
    typer.Option(
        "--memory", help="low takes more time and less memory under control, auto does so if there is too little."
    ),
]
Inversion = Annotated[
    Literal["ddim", "null-text", "dpl"],
    typer.Option("--method", help="ddim is quick and inexact, null-text comes back, dpl learns the nouns as well."),
]
Nouns = Annotated[
    list[str] | None,
    typer.Option("--nouns", metavar="WORDS", help="Words that dpl learns; those of the prompt if absent."),
]
Control = Annotated[
    str,
    typer.Option(
        "--control",
        metavar="METHOD",
        help=f"A method, or several as in 'attend-and-excite + 0.5*syngen'; '{PLAIN}' for plain sampling. "
        "`attncontrol methods` lists them.",
        autocompletion=lambda: [*catalog.names(), PLAIN],
    ),
]
Output = Annotated[Path, typer.Option("--output", metavar="DIR", file_okay=False, help="Folder for the results.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are already there.")]


def read_control(name: str, settings: Mapping[str, Any], model: str) -> MethodSum:
    """The methods of `--control`, with the model's tuned settings and those of `--set`. "none" is an empty sum."""
    from attncontrol.guidance.settings import settings_of_checkpoint
    from attncontrol.losses.combining import resolve_control, with_settings

    with option("--model"):
        own = settings_of_checkpoint(model)
    with option("--control"):
        methods = resolve_control(None if name == PLAIN else name, own)
    with option("--set"):
        return with_settings(methods, settings)


def read_settings(assignments: Sequence[str] | None) -> dict[str, Any]:
    """The settings of `--set`, not yet of any method."""
    with option("--set"):
        return dict(read_assignment(text) for text in assignments or ())


def read_seed(text: str) -> int:
    """The seed of `--seed`; for "random" one below 2**32."""
    if text == "random":
        return secrets.randbelow(2**32)
    if not is_seed(text):
        raise ValueError(f"--seed: {text!r} must be a whole number from 0 to {LARGEST_SEED}, or 'random'")
    return int(text)


def check_negative_prompt(text: str, model: str) -> None:
    """Raises ValueError for a negative prompt that the model would not heed."""
    from attncontrol.models import heeds_negative_prompt, stock_pipeline

    if not text:
        return
    with option("--model"):
        heeded = heeds_negative_prompt(stock_pipeline(model))
    if not heeded:
        raise ValueError(
            f"--negative-prompt: the model {model!r} heeds none, since it draws without classifier-free guidance: "
            "leave the option out, or give --model a Stable Diffusion, as 'emoji'"
        )


def split_list(text: str) -> list[str]:
    """What stands between the commas of an option's value, without empty entries."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_subjects(texts: Sequence[str] | None) -> list[Any] | None:
    """The values of `--subjects` as the pipeline takes them."""
    if not texts:
        return None
    subjects: list[Any] = []
    for text in texts:
        if text.lstrip().startswith("["):
            with option("--subjects"):
                subjects += _json_list(text)
        else:
            subjects += [int(item) if item.lstrip("-").isdecimal() else item for item in split_list(text)]
    if not subjects:
        raise ValueError("--subjects: name at least one word of the prompt, or leave the option out")
    return subjects


def _json_list(text: str) -> list[Any]:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a JSON list: {error}") from error


def read_layout_option(value: str | None) -> Any:
    """The layout of `--layout` as JSON has it, checked: "auto" or the content of the file."""
    if value is None or value == "auto":
        return value
    from attncontrol.layout import read_layout

    with option("--layout"):
        read_layout(value)
        return json.loads(Path(value).read_text(encoding="utf-8"))


def read_grounding_option(name: str | None, beta: float | None) -> dict[str, Any] | None:
    """The settings of `--grounding` and `--grounding-beta`; None without."""
    if name is None:
        if beta is not None:
            raise ValueError("--grounding-beta: it belongs to --grounding: give that, too")
        return None
    from attncontrol.grounding import Grounding

    return Grounding(beta=beta, rewired=name == "reground").to_json()


def read_guidance_scale(scale: float | None, model: str) -> float:
    """The given guidance scale, or the model's.

    Raises:
        ValueError: For one that is not a number.
    """
    from attncontrol.models import default_guidance_scale

    if scale is None:
        with option("--model"):
            return default_guidance_scale(model)
    if not math.isfinite(scale):
        raise ValueError(f"--guidance-scale: {scale} must be finite; 7.5 is usual")
    return scale
