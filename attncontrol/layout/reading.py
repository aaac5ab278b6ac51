"""Layouts as users write them: read, validated, and brought to fractions of the image."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from attncontrol.arguments import short
from attncontrol.layout.regions import Box, Region

TOLERATED_OVERSHOOT = 0.05
LARGEST = 1e9
AUTO = "auto"
TOP_KEYS = ("prompt", "objects", "image_size")
OBJECT_KEYS = ("phrase", "boxes", "mask", "tokens")
PARALLEL_KEYS = ("phrases", "gligen_phrases"), ("locations", "boxes", "gligen_boxes")  # GLIGEN, and diffusers for it


@dataclass(frozen=True)
class PlacedPhrase:
    """A phrase, its regions (at least one), and its token positions where the user gave them."""

    phrase: str
    regions: tuple[Region, ...]
    tokens: tuple[int, ...] = ()


RawLayout = tuple[PlacedPhrase, ...]


def read_layout(value: Any, *, image_size: int | tuple[int, int] | None = None) -> RawLayout | Literal["auto"]:
    """Reads and checks a layout before any prompt is known.

    A mask is a PIL image or an image file; the region is what is opaque if some of it is transparent, else what is at
    least half as light as its lightest. A box that reaches outside by at most 5% of the image is clipped, with a
    UserWarning.

    Args:
        value: One of
            - a dict of phrase -> box [x0, y0, x1, y1], list of boxes, or mask;
            - the JSON form {"prompt", "objects": [{"phrase", "boxes", "mask", "tokens"}], "image_size"}, as a dict or
              as the path of a .json file, to which its mask files are relative;
            - pairs [[phrase, box], ...], also under the key "object_list" (LayoutGPT), or lists of equal length under
              "phrases" and "locations" (GLIGEN);
            - a layout already read;
            - "auto" (see `automatic_layout`).
        image_size: One side or (height, width), for boxes in pixels, as under that key of the dict; None for boxes
            that are fractions of the image.

    Returns:
        What is placed, in its order, for `place`; "auto" stays "auto".

    Raises:
        ValueError: For anything else; the message names the phrase.
    """
    if isinstance(value, str | os.PathLike):
        if value == AUTO:
            return AUTO
        return _Reader(image_size, Path(value).parent).read(_load_json(Path(value)))
    if isinstance(value, tuple) and value and all(isinstance(item, PlacedPhrase) for item in value):
        return value
    return _Reader(image_size).read(value)


def _load_json(path: Path) -> Any:
    if path.suffix.lower() != ".json":
        raise ValueError(f"layout={str(path)!r}: the only words are 'auto' and the path of a .json file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the layout file {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"the layout file {str(path)!r} is not JSON: {error}") from error


@dataclass
class _Reader:
    image_size: Any
    folder: Path = Path()

    def read(self, value: Any) -> RawLayout:
        if _is_pairs(value):
            return self._pairs(value)
        if isinstance(value, list | tuple) and not value:
            raise ValueError("the layout is empty: give a box for at least one phrase")
        if not isinstance(value, Mapping):
            raise ValueError(
                f"a layout is a dict of phrase: [x0, y0, x1, y1], a .json file or 'auto', not {short(value)}"
            )
        self.image_size = value.get("image_size", self.image_size)
        if _is_pairs(value.get("object_list")):
            return self._pairs(value["object_list"])
        lists = [
            next((value[key] for key in keys if isinstance(value.get(key), list)), None) for keys in PARALLEL_KEYS
        ]
        if None not in lists:
            return self._parallel(*lists)
        if isinstance(value.get("prompt"), str) or _is_list_of(value.get("objects"), Mapping):
            return self._json_form(value)
        regions = {_phrase(k): self._regions(k, given) for k, given in value.items() if k != "image_size"}
        if not regions:
            raise ValueError("the layout is empty: give a box for at least one phrase")
        return tuple(PlacedPhrase(phrase, own) for phrase, own in regions.items())

    def _parallel(self, phrases: list[Any], boxes: list[Any]) -> RawLayout:
        if len(phrases) != len(boxes):
            raise ValueError(f"the layout has {len(phrases)} phrases and {len(boxes)} boxes: give one box per phrase")
        return self._pairs(list(zip(phrases, boxes, strict=True)))

    def _pairs(self, pairs: Sequence[Any]) -> RawLayout:
        """Phrases with a box each; a phrase that is there again has several."""
        regions: dict[str, tuple[Region, ...]] = {}
        for phrase, box in pairs:
            regions[_phrase(phrase)] = regions.get(phrase, ()) + self._regions(phrase, box)
        return tuple(PlacedPhrase(phrase, own) for phrase, own in regions.items())

    def _json_form(self, value: Mapping[str, Any]) -> RawLayout:
        _check_keys("the layout", value, TOP_KEYS)
        objects = value.get("objects")
        if not _is_list_of(objects, Mapping):
            raise ValueError(
                'the layout needs "objects", a list of {"phrase": ..., "boxes": [[x0, y0, x1, y1]]} with at least one'
            )
        return tuple(self._object(number, item) for number, item in enumerate(objects, 1))

    def _object(self, number: int, item: Mapping[str, Any]) -> PlacedPhrase:
        if "phrase" not in item:
            raise ValueError(f'object {number} of the layout has no "phrase"')
        phrase = _phrase(item["phrase"])
        _check_keys(f"the layout of {phrase!r}", item, OBJECT_KEYS)
        if "boxes" not in item and "mask" not in item:
            raise ValueError(f'the layout of {phrase!r} has neither "boxes" nor "mask"')
        regions = self._regions(phrase, item["boxes"]) if "boxes" in item else ()
        if "mask" in item:
            regions += (self._mask(phrase, item["mask"]),)
        tokens = item.get("tokens", [])
        if not isinstance(tokens, list) or any(not _is(t, Integral) or t < 1 for t in tokens):
            raise ValueError(
                f"the tokens of {phrase!r} must be a list of positions, 1 for the prompt's first token, not {tokens!r}"
            )
        return PlacedPhrase(phrase, regions, tuple(tokens))

    def _regions(self, phrase: Any, given: Any) -> tuple[Region, ...]:
        if isinstance(given, Image.Image | str | os.PathLike):
            return (self._mask(phrase, given),)
        given = _plain(given)
        if not isinstance(given, list | tuple):
            raise ValueError(
                f"the layout of {phrase!r} must be a box [x0, y0, x1, y1], a list of boxes or a mask image, "
                f"not {short(given)}"
            )
        if not given:
            raise ValueError(f"the layout of {phrase!r} has no box: give at least one [x0, y0, x1, y1]")
        given = [_plain(item) for item in given]
        boxes = given if any(isinstance(item, list | tuple) for item in given) else [given]
        return tuple(self._box(phrase, box) for box in boxes)

    def _box(self, phrase: str, box: Any) -> Box:
        name = f"the layout of {phrase!r}: box {short(box)}"
        if not isinstance(box, list | tuple) or len(box) != 4:
            raise ValueError(f"{name} must be 4 numbers x0, y0, x1, y1")
        if any(not _is(v, Real) or not abs(v) < LARGEST for v in box):
            raise ValueError(f"{name} must be 4 finite numbers x0, y0, x1, y1")
        height, width = self._frame()
        x0, y0, x1, y1 = (float(v) / side for v, side in zip(box, (width, height) * 2, strict=True))
        for axis, first, last, at in (("x", x0, x1, 0), ("y", y0, y1, 1)):
            if first == last:
                raise ValueError(f"{name} is empty: {axis}0 must be smaller than {axis}1, both are {box[at]}")
            if first > last:
                raise ValueError(
                    f"{name} is inverted: {axis}0 = {box[at]} must be smaller than {axis}1 = {box[at + 2]}; a box is "
                    "two corners, not a corner with width and height"
                )
        return self._inside(name, (x0, y0, x1, y1))

    def _inside(self, name: str, box: Box) -> Box:
        if min(box) >= 0 and max(box) <= 1:
            return box
        height, width = self._frame()
        frame = "0..1" if self.image_size is None else f"the image, {width} wide and {height} high"
        clipped = tuple(min(max(v, 0.0), 1.0) for v in box)
        small = max(-min(box), max(box) - 1) <= TOLERATED_OVERSHOOT + 1e-9
        if not small or clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            pixels = " For boxes in pixels give image_size" if self.image_size is None and max(box) > 2 else ""
            raise ValueError(f"{name} lies outside {frame}: coordinates are x0, y0, x1, y1 within it.{pixels}")
        warnings.warn(f"{name} reaches outside {frame} and is clipped", stacklevel=2)
        return clipped

    def _frame(self) -> tuple[float, float]:
        """Height and width that coordinates count in."""
        if self.image_size is None:
            return 1, 1
        sides = self.image_size if isinstance(self.image_size, list | tuple) else (self.image_size,) * 2
        if len(sides) != 2 or any(not _is(side, Integral) or side < 1 for side in sides):
            raise ValueError(
                f"image_size must be the image's side in pixels, or (height, width), not {self.image_size!r}"
            )
        return tuple(sides)

    def _mask(self, phrase: str, given: Any) -> Tensor:
        if isinstance(given, Image.Image):
            return _mask_tensor(phrase, given)
        if not isinstance(given, str | os.PathLike):
            raise ValueError(f"the mask of {phrase!r} must be an image or an image file, not {short(given)}")
        path = self.folder / given
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the mask of {phrase!r}, {str(path)!r}, as an image") from error
        return _mask_tensor(phrase, image)


def _mask_tensor(phrase: str, image: Image.Image) -> Tensor:
    """The pixels a mask image marks: bool [height, width]."""
    if min(image.size) == 0:
        raise ValueError(f"the mask of {phrase!r} has no pixels")
    light, alpha = (
        torch.frombuffer(bytearray(band.tobytes()), dtype=torch.uint8).int()
        for band in image.convert("RGBA").convert("LA").split()
    )
    painted = alpha if (alpha < 128).any() else light
    mask = (2 * painted >= painted.max()).reshape(image.height, image.width)
    if not painted.any():
        raise ValueError(f"the mask of {phrase!r} is empty: paint the region white on black, or on transparent")
    return mask


def _phrase(phrase: Any) -> str:
    if not isinstance(phrase, str) or not phrase.strip():
        raise ValueError(f"a phrase of the layout must be words of the prompt, not {phrase!r}")
    return phrase


def _check_keys(name: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise ValueError(f"{name} has the unknown key {key!r}; there are: {', '.join(known)}")


def _is_list_of(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def _is_pairs(value: Any) -> bool:
    """Whether it is a list of [phrase, box]; a tuple of phrases already placed is none."""
    return _is_list_of(value, list | tuple) and all(len(item) == 2 and isinstance(item[0], str) for item in value)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Arrays and tensors, and their scalars, as lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value
