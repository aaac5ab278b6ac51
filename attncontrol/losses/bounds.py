"""What values a setting of a method may have."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from attncontrol.arguments import is_finite


@functools.cache
def choices(cls: type) -> dict[str, tuple[Any, ...]]:
    """The values of every setting that is declared as a Literal."""
    return {name: get_args(kind) for name, kind in get_type_hints(cls).items() if get_origin(kind) is Literal}


def numbers(value: Any) -> Sequence[Any]:
    """All that should be numbers in a setting: its own value, its items, or its keys and values."""
    if value is None:
        return ()
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    return value if isinstance(value, list | tuple) else (value,)


def is_in(value: Any, least: float | None, most: float | None) -> bool:
    """Whether a value is a finite number within bounds, each of which may be absent."""
    return is_finite(value) and (least is None or value >= least) and (most is None or value <= most)
