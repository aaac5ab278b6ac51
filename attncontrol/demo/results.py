"""Results as files that the server may hand out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attncontrol.arguments import slug
from attncontrol.demo.task import Pair
from attncontrol.images.drawing import Drawn
from attncontrol.images.recipe import save_image
from attncontrol.losses.combining import control_name, resolve_control


@dataclass(frozen=True)
class Shown:
    """One visitor's last result: its pairs and the PNG file of every image, plain and controlled in turn."""

    pairs: tuple[Pair, ...]
    files: tuple[str, ...]

    @property
    def images(self) -> list[Drawn]:
        """All images in the order of the gallery."""
        return [drawn for pair in self.pairs for drawn in (pair.plain, pair.controlled) if drawn]


def save(pairs: Sequence[Pair]) -> Shown:
    """Writes every image as PNG with its recipe, into a folder of its own that the server may hand out."""
    folder = Path(tempfile.mkdtemp(prefix="attncontrol-"))
    shown = Shown(tuple(pairs), ())
    files = []
    for drawn in shown.images:
        control = control_name(resolve_control(list(drawn.recipe.control)))
        path = folder / f"{slug(drawn.recipe.prompt)}_{slug(control)}_{drawn.recipe.seed}.png"
        save_image(drawn.image, path, drawn.recipe)
        files.append(str(path))
    return Shown(tuple(pairs), tuple(files))
