"""Attention layers of a denoiser and the choice among them: by place, by pattern, by size of their maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Size = tuple[int, int]
Place = Literal["up", "down", "mid", "joint", "single", "block"]
PLACES: tuple[Place, ...] = get_args(Place)
UNET_PLACES: tuple[Place, ...] = ("up", "down", "mid")
SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Layer:
    """One attention layer of a denoiser, as the methods see it when they choose what to capture.

    `name` is the module's dotted name, `place` the part of the network it sits in, `is_cross` whether its keys
    are text tokens, `size` the (height, width) of its queries for the latents at hand, `by_default` whether methods
    look at it unless told otherwise, `is_grounding` whether its keys are pixels and then tokens for boxes (GLIGEN).
    """

    name: str
    place: Place
    is_cross: bool
    size: Size
    by_default: bool = True
    is_grounding: bool = False

    @property
    def path(self) -> str:
        """Place, block, attention and transformer block as patterns name them: "up.0.1.3", in the middle "mid.0.3"."""
        return ".".join([self.place, *re.findall(r"\.(\d+)", self.name)])


def match_layers(layers: Sequence[Layer], patterns: str) -> list[Layer]:
    """The layers that a pattern like "down", "up.0" or "down.2.1, mid" names, each by the start of its path.

    Raises:
        ValueError: For a pattern of another form and for one that no layer matches.
    """
    chosen: set[str] = set()
    for pattern in split_patterns(patterns):
        expanded = [f"{start}." for start in _expanded(pattern)]
        found = {m.name for m in layers if any(f"{m.path}.".startswith(start) for start in expanded)}
        if not found:
            blocks = dict.fromkeys(".".join(m.path.split(".")[: 1 if m.place == "mid" else 2]) for m in layers)
            raise ValueError(f"no attention layer matches {pattern!r}; there are layers in {', '.join(blocks)}")
        chosen |= found
    return [layer for layer in layers if layer.name in chosen]


def split_patterns(patterns: str) -> list[str]:
    """The patterns of a list separated by commas.

    Raises:
        ValueError: For one that could match no layer.
    """
    split = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in split:
        if not re.fullmatch(rf"({'|'.join(PLACES)})((\.\d+)*|\.\d+-\d+)", pattern):
            raise ValueError(
                f"layers cannot be {pattern!r}: name down, mid or up, or parts of them by block, attention and "
                "transformer block, as in 'down.2' or 'up.0.1.3', of transformers joint, single or block, as in "
                "'joint.4-11' or 'single.0', separated by commas"
            )
    return split


def _expanded(pattern: str) -> list[str]:
    """ "joint.4-6" as "joint.4", "joint.5", "joint.6"; any other pattern as it is."""
    place, _, numbers = pattern.partition(".")
    first, dash, last = numbers.partition("-")
    return [f"{place}.{i}" for i in range(int(first), int(last) + 1)] if dash else [pattern]


def choose_size(layers: Sequence[Layer], wanted: int | Size | None = None) -> Size:
    """Chooses the cross-attention maps to work on, out of those that `layers` have.

    Args:
        layers: Any; only their cross-attention counts.
        wanted: (height, width), or one side of a square. None takes the coarsest maps whose shorter side is at least
            16 (16x16 for Stable Diffusion 1.x at 512 px, 24x24 at 768, 32x32 for XL at 1024), else the finest there
            are if their shorter side is at least 4.

    Returns:
        (height, width).

    Raises:
        ValueError: If no layer fits; the message names the sizes there are.
    """
    sizes = sorted({layer.size for layer in layers if layer.is_cross}, key=min)
    listed = ", ".join(f"{h}x{w}" for h, w in sizes) or "none"
    if wanted is not None:
        size = (wanted, wanted) if isinstance(wanted, int) else tuple(wanted)
        if size not in sizes:
            raise ValueError(
                f"no cross-attention layer has maps of {size[0]}x{size[1]} (height x width); there are {listed}. "
                "Set resolution to one of these or change the image size"
            )
        return size
    for size in sizes:
        if min(size) >= SMALLEST_SIDE:
            return size
    if not sizes or min(sizes[-1]) < 4:
        raise ValueError(f"the image is too small to guide: its cross-attention maps have sizes {listed}")
    return sizes[-1]
