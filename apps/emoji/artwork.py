"""The artwork: 24 glyphs as square RGBA arrays, tinted in the colours of the vocabulary.

The PNG files beside the code were rendered once from Noto Color Emoji (`python -m apps.emoji.artwork FONT`);
the bench, for which there is no emoji, is drawn here.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .vocabulary import COLOURS, NAMES

FOLDER = Path(__file__).parent / "glyphs"
GLYPH_SIZE = 96  # pixels of the stored squares

CODE_POINTS = {
    "cat": 0x1F431, "dog": 0x1F436, "bird": 0x1F426, "bear": 0x1F43B, "lion": 0x1F981, "horse": 0x1F434,
    "elephant": 0x1F418, "monkey": 0x1F435, "frog": 0x1F438, "turtle": 0x1F422, "rabbit": 0x1F430,
    "mouse": 0x1F42D, "backpack": 0x1F392, "glasses": 0x1F453, "crown": 0x1F451, "suitcase": 0x1F9F3,
    "chair": 0x1FA91, "balloon": 0x1F388, "bow": 0x1F380, "car": 0x1F697, "bowl": 0x1F963,
    "clock": 0x23F0, "apple": 0x1F34E,
}  # fmt: skip


def draw_bench() -> Image.Image:
    """A park bench seen from the front, RGBA, 192x192."""
    image = Image.new("RGBA", (192, 192))
    draw = ImageDraw.Draw(image)
    wood, edge, leg = (172, 112, 62), (122, 76, 40), (92, 58, 34)
    for x in (28, 152):
        draw.rectangle((x, 36, x + 12, 172), fill=leg)
    for top in (42, 68):
        draw.rounded_rectangle((10, top, 182, top + 18), 5, fill=wood, outline=edge, width=3)
    draw.rounded_rectangle((2, 106, 190, 130), 6, fill=wood, outline=edge, width=3)
    return image


def to_square(image: Image.Image) -> Image.Image:
    """Crop to the visible part, centre on a transparent square, resize to GLYPH_SIZE."""
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((GLYPH_SIZE, GLYPH_SIZE), Image.Resampling.LANCZOS)


def render_from_font(font_path: str, folder: Path = FOLDER) -> None:
    """Write one PNG per name. 109 is the only size at which the bitmap font exists."""
    font = ImageFont.truetype(font_path, 109)
    for name in NAMES:
        image = draw_bench() if name == "bench" else Image.new("RGBA", (192, 192))
        if name in CODE_POINTS:
            ImageDraw.Draw(image).text((24, 24), chr(CODE_POINTS[name]), font=font, embedded_color=True)
        to_square(image).save(folder / f"{name}.png", optimize=True)


def tint(glyph: np.ndarray, colour: str) -> np.ndarray:
    """Recolour (H, W, 4) uint8: luminance, centred on the glyph's mean, runs from dark over the colour to light."""
    rgb, alpha = glyph[..., :3].astype(np.float32), glyph[..., 3:]
    luminance = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    mean = float((luminance * alpha[..., 0]).sum() / alpha.sum())
    target = np.array(COLOURS[colour], np.float32)
    dark, light = target * 0.35, target + (255 - target) * 0.55
    if colour == "white":
        dark = target * 0.62
    shade = np.clip((luminance - mean)[..., None] / 150, -1, 1)
    tinted = np.where(shade < 0, target + (target - dark) * shade, target + (light - target) * shade)
    return np.concatenate([tinted.round().astype(np.uint8), alpha], -1)


@cache
def glyph(name: str, colour: str | None, size: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Premultiplied RGBA (size, size, 4) float32 in 0..1, and the xyxy box of its visible part in pixels."""
    image = np.array(Image.open(FOLDER / f"{name}.png").convert("RGBA"))
    if colour is not None:
        image = tint(image, colour)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)
    box = resized.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox()
    pixels = np.asarray(resized, np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    return pixels, box


if __name__ == "__main__":
    render_from_font(sys.argv[1])
