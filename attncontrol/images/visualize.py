"""Pictures for people: attention maps laid over images, and labelled grids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from attncontrol.guidance.record import ImageRecord

DISPLAY_SIDE = 256
MARGIN = 8
TEXT = (30, 30, 34)
PAPER = (255, 255, 255)
HEAT = ((12, 8, 60), (96, 20, 140), (205, 50, 95), (250, 140, 30), (255, 240, 130))  # sRGB from 0 to 1, evenly spaced


def heat_colours(values: np.ndarray) -> np.ndarray:
    """Colours of numbers in 0..1 (clipped): dark blue, purple, red, orange, pale yellow; uint8 [..., 3]."""
    positions = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, positions, channel) for channel in zip(*HEAT, strict=True)]
    return np.stack(channels, -1).round().astype(np.uint8)


def overlay(
    image: Image.Image, attention: Tensor, *, peak: float | None = None, strength: float = 0.65
) -> Image.Image:
    """Lays an attention map over an image as a heat map.

    Args:
        image: Of any size, which the result has.
        attention: [height, width], not negative, of any resolution.
        peak: The value that gets the hottest colour, the map's maximum by default. Give several maps the same one to
            compare them.
        strength: Share of the heat, 0..1.

    Returns:
        An RGB image.

    Raises:
        ValueError: For a map that is not two-dimensional or not finite.
    """
    values = attention.detach().float().cpu().numpy()
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"an attention map must be finite and [height, width], got {list(values.shape)}")
    peak = float(values.max()) if peak is None else peak
    scaled = Image.fromarray(np.clip(values / peak, 0, 1).astype(np.float32) if peak > 0 else np.zeros_like(values))
    heat = heat_colours(np.asarray(scaled.resize(image.size, Image.Resampling.BICUBIC)))
    return Image.blend(image.convert("RGB"), Image.fromarray(heat), strength)


def subject_maps(record: ImageRecord) -> dict[str, Tensor]:
    """Each subject's attention map, the mean over all sampling steps: [height, width], by the subject's text.

    A text that comes twice gets "#2" on its second occurrence.

    Raises:
        ValueError: If no maps were recorded.
    """
    if record.maps is None:
        raise ValueError("no attention maps were recorded: generate with record_maps=True and at least one subject")
    texts = [entity.text for entity in record.structure.entities]
    names = [f"{t}#{texts[: i + 1].count(t)}" if texts.index(t) < i else t for i, t in enumerate(texts)]
    return dict(zip(names, record.maps.mean(0), strict=True))


def enlarge(image: Image.Image, side: int = DISPLAY_SIDE) -> Image.Image:
    """The image with its longer side enlarged to `side` pixels; larger images stay as they are."""
    factor = side / max(image.size)
    if factor <= 1:
        return image
    return image.resize([max(1, round(s * factor)) for s in image.size], Image.Resampling.LANCZOS)


def labelled_grid(
    rows: Sequence[Sequence[Image.Image]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    caption: str = "",
    side: int = DISPLAY_SIDE,
) -> Image.Image:
    """Puts images into rows and columns with titles.

    Args:
        rows: Images; rows may be of different lengths.
        row_titles: One for every row, or none at all; long ones are wrapped.
        column_titles: Likewise. The built-in font has Latin letters only; others show as boxes.
        caption: A line above.
        side: Pixels to which smaller images are enlarged.

    Returns:
        One RGB image.

    Raises:
        ValueError: Without any image, or if there are more rows or columns than titles for them.
    """
    cells = [[enlarge(image.convert("RGB"), side) for image in row] for row in rows]
    columns = max((len(row) for row in cells), default=0)
    if not columns:
        raise ValueError("a grid needs at least one image")
    if (row_titles and len(row_titles) < len(rows)) or (column_titles and len(column_titles) < columns):
        raise ValueError(f"the grid has {len(rows)} rows and {columns} columns: give each a title, or none")
    widths = [max(row[i].width for row in cells if i < len(row)) for i in range(columns)]
    heights = [max((image.height for image in row), default=0) for row in cells]
    left = max((_text_size(wrap(title, side // 2))[0] for title in row_titles), default=0)
    left += MARGIN if left else 0
    total = MARGIN + left + sum(widths) + MARGIN * columns
    caption = wrap(caption, total - 2 * MARGIN, large=True)
    headings = [wrap(title, width) for title, width in zip(column_titles, widths, strict=False)]
    top = MARGIN + _text_size(caption, large=True)[1]
    heading_height = max((_text_size(heading)[1] for heading in headings), default=0)
    page = Image.new("RGB", (total, top + heading_height + sum(heights) + MARGIN * len(cells)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), caption, TEXT, _font(large=True))
    xs = [MARGIN + left + sum(widths[:i]) + MARGIN * i for i in range(columns)]
    for x, heading in zip(xs, headings, strict=False):
        draw.text((x, top), heading, TEXT, _font())
    y = top + heading_height
    for number, (row, height) in enumerate(zip(cells, heights, strict=True)):
        if row_titles:
            draw.text((MARGIN, y), wrap(row_titles[number], side // 2), TEXT, _font())
        for x, image in zip(xs, row, strict=False):
            page.paste(image, (x, y))
        y += height + MARGIN
    return page


def wrap(text: str, width: int, *, large: bool = False) -> str:
    """The text with line breaks so that no line is wider than `width` pixels; words longer than that are broken."""
    font = _font(large)
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split(" "):
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
            while len(line) > 1 and font.getlength(line) > width:
                fitting = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or font.getlength(line[:n]) <= width)
                lines.append(line[:fitting])
                line = line[fitting:]
        lines.append(line)
    return "\n".join(lines)


def _text_size(text: str, large: bool = False) -> tuple[int, int]:
    """Width and height of wrapped text with a margin below, nothing for an empty one."""
    if not text:
        return 0, 0
    _, _, right, bottom = ImageDraw.Draw(Image.new("1", (1, 1))).multiline_textbbox((0, 0), text, _font(large))
    return int(right) + 1, int(bottom) + MARGIN


@cache
def _font(large: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(18 if large else 14)
