"""The oracle of the bundled model: which objects a picture of the emoji world shows, in which colour, and where.

A small convolutional detector, trained by this project on rendered scenes with exact boxes. Each cell of a 16x16 grid
says in which object's middle it lies (if in any), the object's colour, and the distances to the sides of its box.
Half-formed, blurred and blended objects were shown to it in training as background.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

WEIGHTS = Path(__file__).parent / "oracle.safetensors"
SIZE = 64  # side of the pictures it reads, in pixels
GRID = 16

Expected = Sequence[tuple[str, str | None]]


@dataclass(frozen=True)
class Detection:
    """One object: name, colour (None where it has the colours of its artwork), normalised xyxy box, score in 0..1."""

    object: str
    colour: str | None
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Verdict:
    """What became of each expected object, in order.

    `present`: an object of that name is seen. `coloured`: one is seen in the expected colour (any colour will do where
    none is expected).
    """

    present: tuple[bool, ...]
    coloured: tuple[bool, ...]
    detections: tuple[Detection, ...]

    @property
    def all_present(self) -> bool:
        """Whether every object that should be there is."""
        return all(self.present)

    @property
    def all_right(self) -> bool:
        """Every expected object is there in its colour."""
        return all(self.coloured)


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x + self.layers(x))


def _down(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1), nn.GroupNorm(8, outputs), nn.SiLU())


class OracleNetwork(nn.Module):
    """Pictures to logits of names (background last) and colours (untinted last), and distances to box sides."""

    def __init__(self, names: Sequence[str], colours: Sequence[str]) -> None:
        super().__init__()
        self.names, self.colours = tuple(names), tuple(colours)
        self.fine = nn.Sequential(_down(3, 32), _Residual(32), _down(32, 64), _Residual(64))
        self.coarse = nn.Sequential(_down(64, 112), _Residual(112), _Residual(112, 2), _Residual(112))
        self.up = nn.ConvTranspose2d(112, 64, 2, 2)
        self.merge = nn.Sequential(nn.Conv2d(128, 96, 3, padding=1), nn.GroupNorm(8, 96), nn.SiLU(), _Residual(96))
        self.head = nn.Conv2d(96, len(self.names) + 1 + len(self.colours) + 1 + 4, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, names + 1, 16, 16), (N, colours + 1, 16, 16), and (N, 4, 16, 16) left, top, right, bottom in 0..1."""
        fine = self.fine(pixels)
        merged = self.merge(torch.cat([fine, self.up(self.coarse(fine))], 1))
        name, colour, box = self.head(merged).split([len(self.names) + 1, len(self.colours) + 1, 4], 1)
        return name, colour, torch.sigmoid(box)


@cache
def load() -> OracleNetwork:
    """The shipped detector, float32, in evaluation mode, on the CPU."""
    with safe_open(WEIGHTS, "pt") as file:
        vocabulary = {key: json.loads(value) for key, value in file.metadata().items()}
        network = OracleNetwork(vocabulary["names"], vocabulary["colours"])
        network.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})  # noqa: SIM118
    return network.eval().requires_grad_(False)


def to_pixels(images: Sequence[Image.Image] | np.ndarray | Image.Image) -> torch.Tensor:
    """Pictures, or (N, H, W, 3) uint8, to (N, 3, 64, 64) float32 in -1..1. TypeError for other things."""
    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, np.ndarray):
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise TypeError(
                f"images must be (N, H, W, 3) uint8, not {images.shape} {images.dtype}; "
                "give one picture as a list of one"
            )
        images = [Image.fromarray(image) for image in images]
    for image in images:
        if not isinstance(image, Image.Image):
            raise TypeError(f"images must be PIL pictures or one uint8 array, not {type(image).__name__}")
    resized = [
        image.convert("RGB") if image.size == (SIZE, SIZE) else
        image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
        for image in images
    ]  # fmt: skip
    array = np.stack([np.asarray(image) for image in resized]) if resized else np.zeros((0, SIZE, SIZE, 3))
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def detect(images: Sequence[Image.Image] | np.ndarray | Image.Image, threshold: float = 0.5) -> list[list[Detection]]:
    """The objects of each picture, best first.

    Args:
        images: PIL pictures (or one), or an array (N, H, W, 3) uint8; other sizes than 64x64 are resized.
        threshold: Least probability of a detection.

    Raises:
        TypeError: For anything else.
    """
    pixels = to_pixels(images)
    network = load()
    return [
        found
        for part in pixels.split(64)
        for found in decode(network, *network(part), threshold)
    ]  # fmt: skip


def decode(
    network: OracleNetwork, name: torch.Tensor, colour: torch.Tensor, box: torch.Tensor, threshold: float
) -> list[list[Detection]]:
    """Network output to detections: cells above the threshold, strongest first, without those that overlap one."""
    scores, best = name.softmax(1)[:, :-1].max(1)
    shades = colour.softmax(1)
    results = []
    for row in range(len(name)):
        cells = (scores[row] > threshold).nonzero().tolist()
        cells.sort(key=lambda cell: -float(scores[row, cell[0], cell[1]]))
        kept: list[tuple[Detection, list[int], torch.Tensor]] = []
        for y, x in cells:
            corners = _corners(box[row, :, y, x].tolist(), y, x)
            index = int(best[row, y, x])
            shade = shades[row, :, y, x]
            twin = next((k for k in kept if overlap(k[0].box, corners) > 0.4), None)
            if twin:
                if index == twin[1][0]:
                    twin[2].add_(shade)  # all cells of an object vote on its colour
                continue
            found = Detection(network.names[index], None, corners, float(scores[row, y, x]))
            kept.append((found, [index], shade.clone()))
        results.append([_with_colour(network, found, votes) for found, _, votes in kept])
    return results


def _corners(sides: list[float], y: int, x: int) -> tuple[float, float, float, float]:
    middle_x, middle_y = (x + 0.5) / GRID, (y + 0.5) / GRID
    left, top, right, bottom = sides
    return (
        max(0.0, middle_x - left),
        max(0.0, middle_y - top),
        min(1.0, middle_x + right),
        min(1.0, middle_y + bottom),
    )


def _with_colour(network: OracleNetwork, found: Detection, votes: torch.Tensor) -> Detection:
    index = int(votes.argmax())
    colour = network.colours[index] if index < len(network.colours) else None
    return Detection(found.object, colour, found.box, found.score)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Shared area of two xyxy boxes over the area of the smaller one, 0..1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / max(1e-9, min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])))


def expected_from_prompt(prompt: str) -> list[tuple[str, str | None]]:
    """The objects a prompt names and the colour word right before each: 'a cat and a red bow' -> cat, red bow.

    Raises:
        ValueError: If the prompt names nothing the oracle knows.
    """
    network = load()
    words = re.findall(r"[a-z]+", prompt.lower())
    expected = []
    for index, word in enumerate(words):
        if word in network.names:
            before = words[index - 1] if index else ""
            expected.append((word, before if before in network.colours else None))
    if not expected:
        raise ValueError(
            f"{prompt!r} names no object the oracle knows; it knows {', '.join(network.names)}, "
            f"in {', '.join(network.colours)}"
        )
    return expected


def verdict(expected: Expected | str, image: Image.Image | Sequence[Detection]) -> Verdict:
    """Judges a picture (or the detections in it) against what it should show.

    Args:
        expected: (object, colour or None) pairs, or the prompt.
        image: A picture, or the detections in it.

    Raises:
        ValueError: If an object or a colour is unknown.
    """
    network = load()
    if isinstance(expected, str):
        expected = expected_from_prompt(expected)
    for name, colour in expected:
        if name not in network.names:
            raise ValueError(f"the oracle knows no {name!r}; it knows {', '.join(network.names)}")
        if colour is not None and colour not in network.colours:
            raise ValueError(f"the oracle knows no colour {colour!r}; it knows {', '.join(network.colours)}")
    found = detect(image)[0] if isinstance(image, Image.Image) else list(image)
    seen = {item.object for item in found}
    shades = {(item.object, item.colour) for item in found}
    return Verdict(
        present=tuple(name in seen for name, _ in expected),
        coloured=tuple((name in seen) if colour is None else ((name, colour) in shades) for name, colour in expected),
        detections=tuple(found),
    )
