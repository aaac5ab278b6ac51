"""Pictures that people bring: opened, turned upright, flattened, cropped to the model's shape, or refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from attncontrol.attention.layers import Size

LEAST_SIDE = 16
FLOATS = "an array or tensor of floats must lie in 0..1"


def read_picture(image: Any, size: Size) -> Image.Image:
    """An RGB picture of `size` (height, width): the middle of the image, scaled to fill it.

    Args:
        image: A PIL image of any mode, a path, or an array [height, width, 1, 3 or 4] of bytes or of floats in 0..1
            (a tensor may have the channels first). Transparent parts become white.
        size: (height, width) in pixels.

    Raises:
        ValueError: If the image cannot be read, is too small, or holds other numbers.
        TypeError: If it is no image.
    """
    picture = _flattened(_opened(image))
    height, width = size
    if min(picture.size) < LEAST_SIDE:
        raise ValueError(
            f"the image is {picture.width}x{picture.height} pixels: both sides must have at least {LEAST_SIDE}"
        )
    if picture.size == (width, height):
        return picture
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def _opened(image: Any) -> Image.Image:
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise ValueError(f"there is no image at {str(image)!r}")
        try:
            image = Image.open(image)
        except UnidentifiedImageError as error:
            raise ValueError(f"{str(error.args[0])[:200]}: give a PNG, JPEG or WebP file") from error
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"the image cannot be read: {error}") from error
    if isinstance(image, np.ndarray | Tensor):
        return _from_array(image)
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL image, a path, an array or a tensor, not {type(image).__name__}")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image is damaged: {error}") from error
    return ImageOps.exif_transpose(image)


def _flattened(image: Image.Image) -> Image.Image:
    """RGB on white; modes of more than 8 bits are scaled to them."""
    if image.mode.startswith(("I", "F")):
        most = 65535 if image.mode.startswith("I") else 1
        image = Image.fromarray((np.asarray(image, np.float32) / most * 255).clip(0, 255).astype("u1"))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_array(image: Any) -> Image.Image:
    array = image.detach().cpu().float().numpy() if isinstance(image, Tensor) else image
    if isinstance(image, Tensor) and image.dtype == torch.uint8:
        array = array.astype(np.uint8)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and isinstance(image, Tensor):
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(f"an image has the shape [height, width, channels] with 1, 3 or 4, not {list(image.shape)}")
    if array.dtype != np.uint8:
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"{FLOATS}, these are in {array.min():g}..{array.max():g}")
        array = (array * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def to_pixels(picture: Image.Image) -> Tensor:
    """[1, 3, height, width] in -1..1."""
    array = np.asarray(picture, np.float32) / 127.5 - 1
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None]


def picture_hash(picture: Image.Image) -> str:
    """SHA-256 of the pixels."""
    return hashlib.sha256(picture.tobytes()).hexdigest()


def save_edit(picture: Image.Image, file: BinaryIO, facts: dict[str, Any]) -> None:
    """Writes a PNG that carries how it was made as JSON under "attncontrol-edit"."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt("attncontrol-edit", json.dumps(facts, ensure_ascii=False))
    picture.save(file, "PNG", pnginfo=text)
