"""How a run is grounded, as users write it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from attncontrol.arguments import nearest
from attncontrol.attention.layers import split_patterns

NAMES = ("gligen", "reground")


@dataclass(frozen=True)
class Grounding:
    """How a UNet with gates is told what belongs into which box of a layout.

    GLIGEN (Li et al., CVPR 2023, arXiv 2301.07093), and ReGround (Lee and Sung, ECCV 2024, arXiv 2403.13589), in
    which cross-attention does not read what the gates add (docs/grounding.md).

    Args:
        beta: Fraction of the denoiser's calls, from the first, in which the gates are open (scheduled sampling). By
            default 0.3 for GLIGEN and 1.0 where blocks are rewired, as published.
        rewired: Which blocks have ReGround's wiring: True for all, False for none, or those that a pattern names as
            in the setting `layers` of methods, "up.1, mid".
        phrases: What is encoded for an entity in place of its own words, by these or by its noun:
            {"cat": "a fluffy cat"}.

    Raises:
        ValueError: If `beta` is not in 0..1, a pattern has another form, or a phrase is empty.

    Example:
        pipe("a cat and a frog", layout=boxes, grounding=Grounding(beta=0.5, rewired="up"))
    """

    beta: float | None = None
    rewired: bool | str = False
    phrases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.beta is not None and not (_is_number(self.beta) and 0 <= self.beta <= 1):
            raise ValueError(f"grounding: beta must be a fraction of sampling from 0 to 1, got {self.beta!r}")
        if not isinstance(self.rewired, bool):
            if not isinstance(self.rewired, str):
                raise ValueError(
                    f"grounding: rewired must be True, False or blocks as 'up.1, mid', got {self.rewired!r}"
                )
            split_patterns(self.rewired)
        if not isinstance(self.phrases, Mapping):
            raise ValueError(f"grounding: phrases must be a dict of words of the prompt, got {self.phrases!r}")
        for entity, phrase in self.phrases.items():
            if not isinstance(phrase, str) or not phrase.strip():
                raise ValueError(f"grounding: the phrase of {entity!r} must be words, got {phrase!r}")

    @property
    def open_share(self) -> float:
        """`beta`, or its default."""
        if self.beta is not None:
            return self.beta
        return 1.0 if self.rewired else 0.3

    def to_json(self) -> dict[str, Any]:
        """All settings, defaults filled in, of JSON types; `read_grounding` reads it back."""
        return {"beta": self.open_share, "rewired": self.rewired, "phrases": dict(self.phrases)}


def read_grounding(value: Any) -> Grounding | None:
    """A grounding from what users may give.

    Args:
        value: True or "gligen", "reground", a `Grounding`, or a mapping of its settings; None and False for none.

    Returns:
        The grounding, None for none.

    Raises:
        ValueError: If it is anything else, or a setting cannot be used.
    """
    if value is None or value is False:
        return None
    if isinstance(value, Grounding):
        return value
    if value is True or value == "gligen":
        return Grounding()
    if value == "reground":
        return Grounding(rewired=True)
    if isinstance(value, str):
        raise ValueError(f"unknown grounding {value!r}{nearest(value, NAMES)}")
    if isinstance(value, Mapping):
        known = [setting.name for setting in dataclasses.fields(Grounding)]
        for key in value:
            if key not in known:
                raise ValueError(f"grounding has no setting {key!r}{nearest(str(key), known)}")
        return Grounding(**value)
    raise ValueError(f"grounding must be True, 'gligen', 'reground' or attncontrol.Grounding(...), got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
