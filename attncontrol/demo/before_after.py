"""What the tab Edit does alike with an edit and an insertion: their pictures, a result's view, files and programs."""

from __future__ import annotations

import base64
import io
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image, UnidentifiedImageError

from attncontrol.arguments import slug
from attncontrol.demo import verdicts
from attncontrol.demo.result_view import SHOWN_SIDE, Sheet, data_url
from attncontrol.demo.studio import Studio
from attncontrol.demo.task import field
from attncontrol.editing.pictures import read_picture, save_edit
from attncontrol.images.visualize import enlarge

FORMATS = ("PNG", "JPEG", "WEBP")
PIXELS = 2**25  # of an uploaded picture
TITLES = ("before", "after")

Pictures = tuple[Image.Image, Image.Image]


class Change(Protocol):
    """What is to be made of a picture that is drawn from `seed`, or of the visitor's."""

    @property
    def prompt(self) -> str:
        """What the picture before shows."""

    @property
    def to(self) -> str:
        """What the picture after is to show."""

    @property
    def picture(self) -> Image.Image | None:
        """The visitor's; None if one is drawn."""

    @property
    def seed(self) -> int:
        """Of the noise."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a picture carries of how it was made."""


def open_picture(studio: Studio, source: str | Path | bytes) -> Image.Image:
    """A visitor's picture as the model takes it: RGB, its middle, of the model's size. FieldError of "picture"."""
    with field("picture"):
        try:
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        except (UnidentifiedImageError, SyntaxError):
            raise ValueError("this is no PNG, JPEG or WebP picture, or a damaged one.") from None
        except (OSError, Image.DecompressionBombError):
            raise ValueError("this picture cannot be read, or is too large.") from None
        if image.width * image.height > PIXELS:
            raise ValueError(f"this picture has more than {PIXELS // 2**20} million pixels: scale it down.")
        return read_picture(image, (studio.size, studio.size))


def view(
    studio: Studio,
    change: Change,
    pictures: Pictures,
    programs: tuple[str, str],
    *,
    method: str,
    what: str,
    maps: Sheet | None,
) -> dict[str, Any]:
    """Both pictures as widgets/result-view.js shows a result; `programs` make them, in Python and as a command."""
    states = [
        verdicts.states(studio.model, prompt, picture)
        for prompt, picture in zip((change.prompt, change.to), pictures, strict=True)
    ]
    return {
        "prompt": change.to,
        "seed": "my picture" if change.picture is not None else change.seed,
        "method": method,
        "sentence": f"{what}. {verdicts.sentence(states[1])}".strip(),
        "aspect": pictures[0].width / pictures[0].height,
        "sides": [
            _side(*side, change.facts, *programs)
            for side in zip(TITLES, pictures, states, _files(change), strict=True)
        ],
        "changes": [],
        "boxes": [],
        "maps": None if maps is None else maps.shown(),
        "loss": "",
    }


def _side(
    title: str, image: Image.Image, states: Any, name: str, facts: dict[str, Any], python: str, command: str
) -> dict[str, Any]:
    buffer = io.BytesIO()
    save_edit(image, buffer, facts)
    return {
        "title": title,
        "image": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "shown": data_url(enlarge(image, SHOWN_SIDE), "WEBP") if max(image.size) < SHOWN_SIDE else "",
        "file": name,
        "things": states,
        "python": python,
        "command": command,
    }


def _files(change: Change) -> list[str]:
    stem = f"{'picture' if change.picture is not None else change.seed}_{slug(change.to)}"
    return [f"{stem}_{title}.png" for title in TITLES]


def save_pictures(change: Change, pictures: Pictures) -> tuple[str, str]:
    """Writes both pictures where the server may hand them out; returns their paths."""
    folder = Path(tempfile.mkdtemp(prefix="attncontrol-"))
    before, after = (folder / name for name in _files(change))
    for image, path in zip(pictures, (before, after), strict=True):
        with path.open("wb") as file:
            save_edit(image, file, change.facts)
    return str(before), str(after)


def program(studio: Studio, method: str, arguments: Sequence[str], *, first: Sequence[str] = ()) -> str:
    """A program that makes both pictures by a method of the pipeline; the lines `first` stand before its call."""
    dtype = str(studio.pipe.dtype)
    loading = repr(studio.model) + ("" if dtype == "torch.float32" else f", dtype={dtype}")
    return "\n".join(
        [
            *(["import torch"] if "dtype" in loading else []),
            "from attncontrol import AttentionControlPipeline",
            "",
            f"pipe = AttentionControlPipeline.from_pretrained({loading})",
            *first,
            f"out = pipe.{method}(",
            *(f"    {argument}," for argument in arguments),
            ")",
            "out.sources[0].save('before.png')",
            "out.images[0].save('after.png')",
        ]
    )


def command(studio: Studio, change: Change, name: str, options: Sequence[str]) -> str:
    """The command line that makes both pictures; a visitor's is "picture.png" in it."""
    words = ["attncontrol", name, *(["picture.png"] if change.picture is not None else []), *options]
    dtype = str(studio.pipe.dtype).removeprefix("torch.")
    return shlex.join([*words, "--model", studio.model, *(["--dtype", dtype] if dtype != "float32" else [])])
