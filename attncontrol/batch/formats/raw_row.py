"""What a reader yields: records, and problems with their place in the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ROW_KEYS = (
    "id",
    "prompt",
    "negative_prompt",
    "seed",
    "seeds",
    "steps",
    "guidance_scale",
    "width",
    "height",
    "control",
    "subjects",
    "layout",
    "grounding",
    "images_per_prompt",
    "metadata",
)


@dataclass(frozen=True)
class Record:
    """One row as the file has it: `values` by the names of ROW_KEYS, or by unknown names that are an error later.

    `line` counts from 1. `textual`: values are text still to be converted (CSV cells, options).
    """

    line: int
    values: dict[str, Any] = field(default_factory=dict)
    textual: bool = False


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a prompt file: where, and what would be right."""

    file: str
    line: int | None
    key: str | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


def short(value: Any) -> str:
    """A value for a message: at most 60 characters, printable."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else f"{text[:45]}... ({len(text)} characters)"
