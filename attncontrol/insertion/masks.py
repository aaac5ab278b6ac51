"""Where a new thing is: from its attention by Otsu's threshold, or from a segmenter that is shown where to look."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from attncontrol.attention.layers import Size

BINS = 256
POINTS = 3
LEAST_POINT = 0.35  # of the strongest place
LEAST_COVERED = 0.01  # of a cell that counts as the thing's
Point = tuple[int, int]
Box = tuple[int, int, int, int]


class Segmenter(Protocol):
    """What outlines a thing in a picture, as a promptable model like SAM does. None is bundled."""

    def __call__(self, picture: Image.Image, points: list[Point], box: Box) -> Any:
        """A mask [height, width] of the picture, not 0 on the thing, or several [masks, height, width] to be united.

        Args:
            picture: What the run shows so far.
            points: Up to three (x, y) on the thing, in pixels.
            box: (x0, y0, x1, y1) of its attention, in pixels.
        """


def smoothed(attention: Tensor) -> Tensor:
    """Attention [height, width] under a 3x3 Gaussian of [1 2 1] / 4 each way, scaled to 0..1; constant becomes 0."""
    padded = F.pad(attention[None, None].double(), (1, 1, 1, 1), mode="reflect")
    line = torch.tensor([0.25, 0.5, 0.25], dtype=padded.dtype, device=padded.device)
    blurred = F.conv2d(F.conv2d(padded, line[None, None, None]), line[None, None, :, None])[0, 0]
    spread = blurred.max() - blurred.min()
    return ((blurred - blurred.min()) / spread.clamp(min=torch.finfo(blurred.dtype).tiny)).float()


def otsu_threshold(values: Tensor) -> float:
    """The threshold that parts values into two classes with the largest variance between them (Otsu, 1979).

    A histogram of 256 bins over the values' range; the middle of the first best bin. Constant values are their own
    threshold.
    """
    low, high = values.min().item(), values.max().item()
    if low == high:
        return low
    counts = torch.histc(values.flatten().double(), BINS, low, high)
    middles = low + (torch.arange(BINS, dtype=counts.dtype, device=counts.device) + 0.5) * (high - low) / BINS
    sums = counts * middles
    below, above = counts.cumsum(0)[:-1], counts.flip(0).cumsum(0).flip(0)[1:]
    means = sums.cumsum(0)[:-1] / below, sums.flip(0).cumsum(0).flip(0)[1:] / above
    return middles[(below * above * (means[0] - means[1]) ** 2).argmax()].item()


def subject_mask(attention: Tensor) -> Tensor:
    """Where smoothed attention [height, width] lies above its Otsu threshold: bool; all False if it is constant."""
    return attention > otsu_threshold(attention)


def segmented(segmenter: Segmenter, picture: Image.Image, attention: Tensor, mask: Tensor) -> Tensor:
    """What a segmenter finds where attention and mask [height, width] point, at their size: floats of 0..1."""
    size = (picture.height, picture.width)
    points, box = find_points(attention, mask, size), find_box(mask, size)
    found = torch.as_tensor(segmenter(picture, points, box))
    if found.ndim not in (2, 3) or found.shape[-2:] != size:
        raise ValueError(
            f"the segmenter must return a mask [height, width] of the picture's {size[0]}x{size[1]}, or several, not "
            f"{list(found.shape)}"
        )
    whole = (found != 0).reshape(-1, *size).any(0).float().to(attention.device)
    covered = F.interpolate(whole[None, None], mask.shape, mode="bilinear")[0, 0]
    return torch.where(covered > LEAST_COVERED, 1.0, covered)


def find_points(attention: Tensor, mask: Tensor, size: Size) -> list[Point]:
    """Up to three (x, y) where attention is strongest, in pixels of a picture of `size`.

    Around each the next ones are not sought: a square of half a box's longer side. Places below 0.35 of the strongest
    do not count.
    """
    large = _enlarged(attention, size).clone()
    x0, y0, x1, y1 = find_box(mask, size)
    half, least = max(x1 - x0, y1 - y0) // 4, LEAST_POINT * large.max()
    points: list[Point] = []
    while len(points) < POINTS and large.max() > 0 and large.max() >= least:
        y, x = divmod(int(large.argmax()), size[1])
        points.append((x, y))
        large[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1] = 0
    return points


def find_box(mask: Tensor, size: Size) -> Box:
    """(x0, y0, x1, y1) of the first and last pixels that a mask covers in a picture of `size`; it is not empty."""
    rows, columns = (_enlarged(mask.float(), size) > 0).nonzero().T
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def _enlarged(values: Tensor, size: Size) -> Tensor:
    return F.interpolate(values[None, None], size, mode="bilinear")[0, 0]


def blended(source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The target's latents [tokens, channels] where the mask [height, width] is 1, the source's where it is 0."""
    share = mask.flatten()[:, None].to(target)
    return share * target + (1 - share) * source
