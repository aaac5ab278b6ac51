"""What the settings of the inversions have in common with those of the methods."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

PUBLISHED_STEPS = 50  # schedules over steps were made for so many


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A frozen set of `option` fields whose values are checked."""

    def __post_init__(self) -> None:
        """Raise ValueError for a choice or a number that makes no sense."""
        kinds = get_type_hints(type(self))
        for setting in dataclasses.fields(self):
            value, kind = getattr(self, setting.name), kinds[setting.name]
            choices = _choices(kind) if isinstance(value, str) else ()
            least, most = setting.metadata["at_least"], setting.metadata["at_most"]
            if choices and value not in choices:
                raise ValueError(f"{setting.name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
            numbers = value if isinstance(value, tuple) else (value,)
            if least is not None and not all(_is_in(x, least, most) for x in numbers):
                raise ValueError(f"{setting.name} must be at least {least:g} and at most {most:g}, not {value!r}")

    def to_json(self) -> dict[str, Any]:
        """All settings by name, of JSON types."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


def _choices(kind: Any) -> tuple[Any, ...]:
    """The strings that a type allows: those of a `Literal`, also of one in a union."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(choice for part in get_args(kind) for choice in _choices(part))


def _is_in(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and least <= value <= most
