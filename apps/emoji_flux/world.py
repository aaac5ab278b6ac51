"""The emoji world at 128 pixels, as tensors on a device: every batch shows its things in new places and sizes.

Artwork, tints, backgrounds and captions are those of `apps.emoji`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apps.emoji.artwork import GLYPH_SIZE, sprite
from apps.emoji.scenes import BACKGROUNDS
from apps.emoji.vocabulary import COLOURS, NAMES

SIZE = 128  # pixels of a side
SIZES = {1: (68, 96), 2: (54, 74), 3: (44, 56)}  # longer side of a thing in pixels, by number of things; none enlarged
THINGS = max(SIZES)
TINTS = (None, *COLOURS)
CANDIDATES = 48  # random placements tried at once for a scene
OVERLAP = 0.1  # most of the smaller box that another may cover


class World:
    """Sprites of every name, tint and size, and what composites scenes from them.

    Things are numbers, (N, THINGS, 2): the index of the name and that of the tint; a name of -1 is no thing.
    """

    def __init__(self, device: str, spacing: int = 2) -> None:
        """`spacing`: pixels between the sizes of sprites; with 2 the sprites take 290 MB."""
        self.device = device
        self.sizes = range(SIZES[3][0], SIZES[1][1] + 1, spacing)
        drawn = [[[sprite(name, tint, size) for tint in TINTS] for name in NAMES] for size in self.sizes]
        pixels = np.zeros((len(drawn), len(NAMES), len(TINTS), GLYPH_SIZE, GLYPH_SIZE, 4), np.uint8)
        for s, n, t in np.ndindex(pixels.shape[:3]):
            size = self.sizes[s]
            pixels[s, n, t, :size, :size] = (drawn[s][n][t][0] * 255).round()
        self.pixels = torch.from_numpy(pixels).to(device)
        self.visible = torch.tensor([[of_name[0][1] for of_name in of_size] for of_size in drawn], device=device)
        allowed = [[i for i, size in enumerate(self.sizes) if low <= size <= high] for low, high in SIZES.values()]
        self.ranges = torch.tensor([(0, 1), *((own[0], own[-1] + 1) for own in allowed)], device=device)
        self.backgrounds = torch.from_numpy(BACKGROUNDS).to(device)

    @torch.no_grad()
    def render(self, things: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N, 3, SIZE, SIZE) float32 in -1..1, and the things' visible boxes (N, THINGS, 4) in pixels."""
        things = things.to(self.device).long()
        size, corner, boxes = self.place(things)
        picture = self.backdrop(len(things))
        for column in range(THINGS):
            layer = self.layer(size[:, column], things[:, column], corner[:, column])
            picture = picture * (1 - layer[..., 3:]) + layer[..., :3]
        return picture.clamp(0, 1).permute(0, 3, 1, 2).contiguous() * 2 - 1, boxes

    def place(self, things: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every thing the index of its size, the corner of its sprite and its visible box; overlaps are avoided."""
        there = things[..., 0] >= 0
        shape = (len(things), CANDIDATES, THINGS)
        low, high = self.ranges[there.sum(1)][:, :, None, None].unbind(1)
        size = low + (self.rand(*shape) * (high - low)).long()
        visible = self.visible[size, things[:, None, :, 0].clamp(min=0)]
        least, most = 1 - visible[..., :2], SIZE - 1 - visible[..., 2:]
        corner = least + (self.rand(*shape, 2) * (most - least + 1)).long()
        boxes = visible + corner.repeat(1, 1, 1, 2)
        worst = self.overlaps(boxes, there)
        rows, chosen = torch.arange(len(things)), torch.where(worst <= OVERLAP, 0, worst).argmin(1)
        return size[rows, chosen], corner[rows, chosen], boxes[rows, chosen]

    def overlaps(self, boxes: Tensor, there: Tensor) -> Tensor:
        """The largest share of a box that lies under another one: (N, CANDIDATES, THINGS, 4) -> (N, CANDIDATES)."""
        first, second = torch.triu_indices(THINGS, THINGS, 1)
        a, b = boxes[:, :, first], boxes[:, :, second]
        shared = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
        smaller = torch.minimum(*((box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)))
        both = (there[:, first] & there[:, second])[:, None]
        return (both * shared.clamp(min=0).prod(-1) / smaller).amax(2)

    def layer(self, size: Tensor, thing: Tensor, corner: Tensor) -> Tensor:
        """One thing of every scene on a transparent picture: premultiplied RGBA (N, SIZE, SIZE, 4) in 0..1."""
        x, y = (torch.arange(SIZE, device=self.device) - corner[:, axis, None] for axis in (0, 1))
        inside = ((x >= 0) & (x < GLYPH_SIZE))[:, None, :] & ((y >= 0) & (y < GLYPH_SIZE))[:, :, None]
        inside &= (thing[:, 0] >= 0)[:, None, None]
        x, y = (axis.clamp(0, GLYPH_SIZE - 1) for axis in (x, y))
        name, tint = (index[:, None, None] for index in thing.clamp(min=0).unbind(1))
        pixels = self.pixels[size[:, None, None], name, tint, y[:, :, None], x[:, None, :]]
        return pixels / 255 * inside[..., None]

    def backdrop(self, count: int) -> Tensor:
        """Linear gradients between two nearby pale colours: (N, SIZE, SIZE, 3) in 0..1, as `scenes.background`."""
        chosen = torch.randint(len(self.backgrounds), (count,), device=self.device)
        first = self.backgrounds[chosen] + 12 * self.rand(count, 3) - 6
        change = 24 * self.rand(count, 1, 1, 1) - 12
        angle = 2 * torch.pi * self.rand(count, 1, 1)
        ramp = torch.linspace(-0.5, 0.5, SIZE, device=self.device)
        weight = 0.5 + 0.5 * (angle.cos() * ramp[None, None, :] + angle.sin() * ramp[None, :, None])
        return (first[:, None, None] + change * weight[..., None]) / 255

    def rand(self, *shape: int) -> Tensor:
        return torch.rand(*shape, device=self.device)
