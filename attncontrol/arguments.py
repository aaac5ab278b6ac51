"""Rules about input that the command line, the demo, prompt files and pipelines share; their callers say where."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable
from numbers import Real
from typing import Any

PLAIN = "none"
"""The control that is no control: plain sampling."""
DEFAULT_CONTROL = "conform"
"""The best one measured: docs/quality.md."""
LARGEST_SEED = 2**63 - 1


def check_side(side: int) -> int:
    """Returns a side of an image, in pixels.

    Raises:
        ValueError: If it is not a positive multiple of 8, as latents need it; the message names the nearest one.
    """
    if side < 8 or side % 8:
        raise ValueError(f"{side} is not a multiple of 8; the nearest is {max(8, round(side / 8) * 8)}")
    return side


def read_seeds(text: str) -> list[int]:
    """Reads seeds separated by commas.

    Raises:
        ValueError: If one is not a whole number from 0 to `LARGEST_SEED`, or is there twice.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items or any(not is_seed(item) for item in items):
        raise ValueError(f"{text!r} must be whole numbers from 0 to {LARGEST_SEED}, separated by commas, as in 0,1,2")
    seeds = [int(item) for item in items]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{text!r} names a seed twice")
    return seeds


def is_seed(text: str) -> bool:
    """Whether a text is a whole number from 0 to `LARGEST_SEED`; longer ones are not even converted."""
    return text.isdecimal() and len(text) <= len(str(LARGEST_SEED)) and int(text) <= LARGEST_SEED


def read_assignment(text: str) -> tuple[str, Any]:
    """Reads `key=value`, where the value is JSON, "none", numbers separated by commas, or else a text.

    Raises:
        ValueError: If there is no key or no equals sign.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{text!r} must have the form key=value, as in step_size=15 or syngen.step_size=15")
    for form in (value, f"[{value}]") if "," in value else (value,):
        try:
            return key.strip(), json.loads(form)
        except (ValueError, RecursionError):
            continue
    return key.strip(), None if value.strip().lower() == PLAIN else value.strip()


def is_finite(value: Any) -> bool:
    """Whether a value is a number, and not infinite or NaN."""
    size: Any = abs(value) if isinstance(value, Real) else math.inf
    return bool(size < math.inf)  # isfinite fails on an int beyond the floats


def short(value: Any) -> str:
    """A value in an error message: at most 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def closest(wrong: str, known: Iterable[str], cutoff: float = 0.4) -> str | None:
    """The known name most like a wrong one, if any is like it at all (`difflib` ratio from `cutoff` on)."""
    return next(iter(difflib.get_close_matches(wrong, list(known), n=1, cutoff=cutoff)), None)


def nearest(wrong: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest one there is, and all of them."""
    names = list(known)
    close = closest(wrong, names)
    hint = f", did you mean {close!r}?" if close else "."
    return f"{hint} There are: {', '.join(names)}"


def slug(text: str, length: int = 60) -> str:
    """A file name part made of a text: lower-case Latin letters, digits, '+', '.', '*' as 'x', the rest as '-'."""
    plain = re.sub(r"[^a-z0-9+.]+", "-", text.lower().replace("*", "x").replace(" + ", "+"))
    return plain[:length].strip("-.") or "image"
