"""The only forms in which a visitor's layout, settings and subjects are taken; none of them can name a file."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

BOXES = 64
ITEMS = 100
CHARACTERS = 200

Number = Annotated[float, Field(strict=True, ge=-1e9, le=1e9, allow_inf_nan=False)]
Box = Annotated[list[Number], Field(min_length=4, max_length=4)]
Boxes = Annotated[list[Box], Field(min_length=1, max_length=BOXES)]
Text = Annotated[str, Field(strict=True, max_length=CHARACTERS)]
Phrase = Annotated[str, Field(strict=True, min_length=1, max_length=CHARACTERS, pattern=r"\S")]
Layout = Annotated[dict[Phrase, Box | Boxes], Field(min_length=1, max_length=BOXES)]
Numbers = Annotated[list[Number], Field(max_length=ITEMS)]
Table = Annotated[dict[Text, Number], Field(max_length=ITEMS)]
Settings = Annotated[dict[Text, bool | Number | Text | Numbers | Table | None], Field(max_length=ITEMS)]
Index = Annotated[int, Field(strict=True, ge=0, le=10_000)]
Word = Index | Annotated[list[Index], Field(max_length=ITEMS)] | Text
Subject = Word | Annotated[list[Word], Field(max_length=ITEMS)]
Subjects = Annotated[list[Subject], Field(max_length=BOXES)]

HIDE = ConfigDict(hide_input_in_errors=True)
_layout, _settings, _subjects = (TypeAdapter(form, config=HIDE) for form in (Layout, Settings, Subjects))


def read_boxes(value: Any) -> dict[str, Any] | Literal["auto"] | None:
    """A visitor's layout: {phrase: box or boxes}, "auto", or None. Raises ValueError for everything else."""
    if value is None or value == "auto":
        return value
    try:
        layout = _layout.validate_python(value)
    except ValidationError as error:
        raise ValueError(
            f"{_place(error)}a layout is {{phrase: box or list of boxes}} here, a box 4 finite numbers x0, y0, x1, y1 "
            f"in 0..1; at most {BOXES} boxes, and no files"
        ) from None
    if sum(isinstance(item, list) for item in chain.from_iterable(layout.values())) > BOXES:
        raise ValueError(f"the layout has too many boxes; at most {BOXES} are allowed here")
    return layout


def read_settings(value: Any) -> dict[str, Any]:
    """A visitor's settings of a method, as JSON has them. Raises ValueError."""
    try:
        return _settings.validate_python(value)
    except ValidationError as error:
        raise ValueError(
            f"{_place(error)}settings are {{name: value}}, a value a number in ±1e9, yes or no, a short text, "
            f"or at most {ITEMS} numbers"
        ) from None


def read_subject_list(value: Any) -> list[Any] | None:
    """A visitor's subjects: words, token indices and lists of these. Raises ValueError."""
    if value is None:
        return None
    try:
        return _subjects.validate_python(value)
    except ValidationError:
        raise ValueError(
            f"subjects are a list of at most {BOXES} words or phrases of the prompt, or token indices, each of at "
            f"most {CHARACTERS} characters"
        ) from None


def _place(error: ValidationError) -> str:
    """The key at fault, where there is one that can be shown."""
    where = error.errors(include_input=False, include_url=False)[0]["loc"]
    return f"{where[0]!r}: " if where and isinstance(where[0], str) and len(where[0]) <= CHARACTERS else ""
