"""Rows: what one row of a prompt file may say, validated, with the options of the command line as defaults."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from attncontrol.arguments import LARGEST_SEED
from attncontrol.batch.formats import ROW_KEYS, Problem, Record
from attncontrol.batch.formats.naming import HOW_TO_NAME
from attncontrol.batch.formats.raw_row import short
from attncontrol.grounding import read_grounding
from attncontrol.layout import read_layout
from attncontrol.losses.combining import control_to_json, resolve_control
from attncontrol.losses.registry import method_classes, nearest
from attncontrol.prompt.subjects import find_words

LONGEST_PROMPT = 10_000
LONGEST_ID = 100
MOST_IMAGES = 10_000
MOST_METADATA = 20_000
LONGEST_CONTROL = 10_000  # characters as JSON: sums of thousands of methods take minutes to add up
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _whole(value: Any) -> Any:
    """Refuses what pydantic would take for a whole number but no user means as one."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"must be a whole number, not {short(value)}")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {short(value)}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {short(value)}: put it in quotes")
    if len(value) > LONGEST_PROMPT:
        raise ValueError(f"has {len(value)} characters; {LONGEST_PROMPT} are the most")
    for i, character in enumerate(value):
        category = unicodedata.category(character)
        if category == "Cs":
            raise ValueError(f"is not valid UTF-8 at character {i + 1}: save the file as UTF-8")
        if category == "Cc" and character not in "\t\n\r":
            raise ValueError(f"has the control character U+{ord(character):04X} at character {i + 1}: take it out")
    return value


def _prompt(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty: write what the image should show")
    return value


def _id(value: Any) -> str:
    value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {short(value)}")
    if len(value) > LONGEST_ID:
        raise ValueError(f"has {len(value)} characters; {LONGEST_ID} are the most, since files are named by it")
    if not ID.fullmatch(value) or value.endswith("."):
        raise ValueError(f"{short(value)} cannot name files: use a-z, 0-9, '-', '_' and '.', a letter or digit first")
    return value


def _size(value: int) -> int:
    if value % 8:
        raise ValueError(f"must be a multiple of 8, as {value + 8 - value % 8}, not {value}")
    return value


def _subjects(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f'must be a list of words of the prompt, as in ["cat", "frog"], not {short(value)}')
    for subject in value:
        for part in _flat(subject):
            if isinstance(part, str):
                _prompt(_text(part))
            elif not isinstance(part, int) or isinstance(part, bool) or part < 1:
                raise ValueError(f"{short(part)} is neither a word of the prompt nor a token index from 1 on")
    return value


def _flat(value: Any, depth: int = 0) -> Iterator[Any]:
    if not isinstance(value, list):
        yield value
    elif not value or depth == 2:
        raise ValueError("a subject is a word, a token index, or a list of modifiers and a noun")
    else:
        for item in value:
            yield from _flat(item, depth + 1)


def _control(value: Any) -> Any:
    """Checks a control; "none" is None."""
    if value is None or value == "none":
        return None
    try:
        if len(json.dumps(value)) > LONGEST_CONTROL:
            raise ValueError(f"has more than {LONGEST_CONTROL} characters as JSON")
        resolved_control(value, {})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{error}; a control is a name, or a mapping {{method, weight, settings}}") from error
    return value


def resolved_control(value: Any, tuned: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A control as `control_to_json` has it, every setting named; empty for none. `tuned` as in `resolve_control`."""
    return _resolved_control(json.dumps(value), json.dumps(tuned))


@functools.lru_cache(maxsize=256)
def _resolved_control(value: str, tuned: str) -> list[dict[str, Any]]:
    return control_to_json(resolve_control(json.loads(value), json.loads(tuned)))


def _grounding(value: Any) -> Any:
    """A grounding with every setting named; "none" is None."""
    grounding = read_grounding(None if value == "none" else value)
    return None if grounding is None else grounding.to_json()


def _metadata(value: Any) -> Any:
    try:
        size = len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"must be of JSON types: {error}") from error
    if not isinstance(value, dict) or size > MOST_METADATA:
        raise ValueError(f"must be a mapping of at most {MOST_METADATA} characters as JSON")
    return value


Whole = BeforeValidator(_whole)
Text = Annotated[str, BeforeValidator(_text)]
Seed = Annotated[int, Whole, Field(ge=0, le=LARGEST_SEED)]
Size = Annotated[int, Whole, Field(ge=8, le=8192), AfterValidator(_size)]


class Row(BaseModel):
    """One validated row. `control` is as given, `layout` what `absolute_layout` makes of it; None for none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[Text, AfterValidator(_prompt)]
    id: Annotated[str | None, BeforeValidator(lambda value: None if value is None else _id(value))] = None
    negative_prompt: Text = ""
    seed: Seed = 0
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MOST_IMAGES)] | None = None
    steps: Annotated[int, Whole, Field(ge=1, le=1000)] = 30
    guidance_scale: Annotated[float, BeforeValidator(_number), Field(ge=0, le=100, allow_inf_nan=False)] = 7.5
    width: Size | None = None
    height: Size | None = None
    control: Annotated[Any, AfterValidator(_control)] = None
    subjects: Annotated[list[Any], BeforeValidator(_subjects)] | None = None
    layout: Any = None
    grounding: Annotated[Any, AfterValidator(_grounding)] = None
    images_per_prompt: Annotated[int, Whole, Field(ge=1, le=MOST_IMAGES)] = 1
    metadata: Annotated[dict[str, Any], BeforeValidator(_metadata)] | None = None

    @property
    def all_seeds(self) -> list[int]:
        """One seed per image: `seeds`, or as many as `images_per_prompt` from `seed` on."""
        return self.seeds or [self.seed + i for i in range(self.images_per_prompt)]


def read_row(file: Path, record: Record, defaults: Mapping[str, Any], files: bool = True) -> Row | list[Problem]:
    """The row of a record, or everything that is wrong with it.

    Args:
        file: The prompt file.
        record: One of its rows, as read.
        defaults: Values for keys the record does not have.
        files: Whether a layout may name files, relative to the prompt file.
    """
    given = dict(record.values)
    problems = [("layout", message) for message in _localise_layout(given, file, files)]
    values = {**_applicable(defaults, given), **given}
    try:
        row = Row.model_validate(values)
    except ValidationError as error:
        return [Problem(str(file), record.line, *item) for item in (*_described(error), *problems)]
    problems += _consistent(row, given)
    return [Problem(str(file), record.line, *item) for item in problems] or row


def check_defaults(defaults: Mapping[str, Any]) -> None:
    """Raises ValueError for values that command-line options give to all rows and that none may have."""
    try:
        Row.model_validate({"prompt": "a", **defaults})
    except ValidationError as error:
        options = (f"--{key.replace('_', '-')}: {message}" for key, message in _described(error))
        raise ValueError("; ".join(options)) from error


def _applicable(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A row's own seeds put the defaults about seeds out of force."""
    own = ("seeds", "seed", "images_per_prompt") if "seeds" in given else ()
    return {key: value for key, value in defaults.items() if key not in own}


def _localise_layout(given: dict[str, Any], file: Path, files: bool) -> list[str]:
    """Checks a row's layout after making the paths in it absolute."""
    layout = given.get("layout")
    if layout is None:
        return []
    try:
        given["layout"] = absolute_layout(layout, file.parent if files else None)
        read_layout(given["layout"])
    except (ValueError, TypeError, RecursionError) as error:
        return [str(error)]
    return []


def absolute_layout(layout: Any, folder: Path | None) -> Any:
    """What a layout says, with absolute names of mask files; the names are relative to `folder`, or to a layout file.

    Raises:
        ValueError: For a file that cannot be read, and without a folder for any file name.
    """

    def path(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if folder is None:
            raise ValueError("may not name files here: write the boxes into the row")
        if "\0" in value:
            raise ValueError(f"{short(value)} is no file name")
        return str((folder / value).resolve())

    if isinstance(layout, str):
        if layout == "auto":
            return layout
        file = Path(path(layout))
        read_layout(file)
        return absolute_layout(json.loads(file.read_text(encoding="utf-8")), file.parent)
    if not isinstance(layout, dict):
        return layout
    objects = layout.get("objects")
    if isinstance(objects, list):
        items = [{**item, "mask": path(item["mask"])} if isinstance(item, dict) and "mask" in item else item
                 for item in objects]  # fmt: skip
        return {**layout, "objects": items}
    return {phrase: path(value) for phrase, value in layout.items()}


def _consistent(row: Row, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with keys taken together."""
    if row.seeds and len(set(row.seeds)) < len(row.seeds):
        yield "seeds", "the same seed is there twice, and would make the same image"
    both = [key for key in ("seed", "images_per_prompt") if given.get(key) is not None]
    if given.get("seeds") is not None and both:
        yield "seeds", f"exclude {both[0]!r}: give one of them"
    if row.all_seeds[-1] > LARGEST_SEED:
        yield "images_per_prompt", f"the last seed would be beyond {LARGEST_SEED}"
    for part in resolved_control(row.control, {}):
        if method_classes()[part["method"]].needs_layout and row.layout is None:
            yield (
                "layout",
                f"{part['method']} needs one: {{phrase: [x0, y0, x1, y1]}} with coordinates in 0..1, or 'auto'",
            )
    if row.grounding is not None and row.layout is None:
        yield "layout", "grounding needs one: {phrase: [x0, y0, x1, y1]} with coordinates in 0..1, or 'auto'"
    for subject in row.subjects or ():
        for word in _flat(subject):
            if isinstance(word, str) and not find_words(row.prompt, re.sub(r"#\d+$", "", word)):
                words = list(dict.fromkeys(re.findall(r"[\w'-]+", row.prompt)))[:40]
                yield "subjects", f"{short(word)} is not in the prompt{nearest(word, words)}"


def _described(error: ValidationError) -> Iterator[tuple[str, str]]:
    """The errors of pydantic as key and message."""
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"][:2]) if len(item["loc"]) > 1 else str(item["loc"][0])
        if item["type"] == "extra_forbidden":
            yield short(key).strip("'"), f"unknown key{nearest(key[:100], list(ROW_KEYS))}"
        elif item["type"] == "missing":
            others = ", ".join(item["input"].get("metadata") or ())
            alone = "is missing: every row needs a prompt"
            yield key, f"is missing; the row has {short(others)}: {HOW_TO_NAME}" if others else alone
        elif item["type"] == "value_error":
            yield key, str(item["ctx"]["error"])
        else:
            yield key, f"{_sentence(item['msg'])}, not {short(item['input'])}"


def _sentence(message: str) -> str:
    """What a value must be, of a message "Input should be ..."."""
    return re.sub(r"^(Input|List|Value) should", "must", message).replace(", unable to parse string as an integer", "")
