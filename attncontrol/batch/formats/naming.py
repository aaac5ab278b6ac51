"""Columns and keys as others call them: what they mean here, and what is kept as metadata."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from attncontrol.arguments import closest
from attncontrol.batch.formats.raw_row import ROW_KEYS, Problem, Record

ALIASES = {
    "prompts": "prompt",  # DrawBench
    "caption": "prompt",
    "captions": "prompt",
    "text": "prompt",
    "sentence": "prompt",
    "negative": "negative_prompt",
    "neg_prompt": "negative_prompt",
    "step": "steps",  # DiffusionDB
    "num_inference_steps": "steps",  # diffusers
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "num_images_per_prompt": "images_per_prompt",
}
DESCRIPTIVE = ("category", "challenge", "note")  # PartiPrompts, DrawBench
SAMPLERS = ("sampler", "sampler_name", "sampler_index", "scheduler")
JSON_CELLS = ("control", "subjects", "layout", "grounding", "seeds", "metadata")
OTHER_WORDS = ("weight", "subject")  # near to a key, and columns of their own elsewhere
HOW_TO_NAME = "call the one that holds the prompts 'prompt', or name it (--prompt-column on the command line)"


@lru_cache(1024)
def meanings(titles: tuple[str, ...], prompt_column: str | None = None) -> tuple[str, ...]:
    """For every title of a row the key of ROW_KEYS it means, "metadata" for others, itself where it looks misspelt.

    `prompt_column` names the one of the prompt, in any case; another one called so then is metadata.
    """
    plain = [title.strip().lower().replace(" ", "_") for title in titles]
    chosen = prompt_column and prompt_column.strip().lower().replace(" ", "_")
    found: list[str] = []
    for name, title in zip(plain, titles, strict=True):
        key = ALIASES.get(name, name)
        if chosen:
            key = "prompt" if name == chosen else "" if key == "prompt" else key
        if key in found or (key != name and name != chosen and key in plain):
            key = "" if key != "metadata" and title not in titles[: len(found)] else key  # it has another name, too
        found.append(key if key in ROW_KEYS else title if _is_misspelt(name) else "metadata")
    return tuple(found)


def understood(
    records: Iterable[Record | Problem], path: Path, prompt_column: str | None = None
) -> Iterator[Record | Problem]:
    """The records with values by ROW_KEYS; what means nothing here is in their metadata, which one warning says."""
    ignored: dict[str, None] = {}
    for record in records:
        yield _understood(record, path, prompt_column, ignored) if isinstance(record, Record) else record
    if ignored:
        warnings.warn(f"{path}: {_note(list(ignored))}", stacklevel=2)


def _understood(record: Record, path: Path, prompt_column: str | None, ignored: dict[str, None]) -> Record | Problem:
    values: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    titles = tuple(map(str, record.values))
    for title, key, value in zip(titles, meanings(titles, prompt_column), record.values.values(), strict=True):
        if key == "metadata" and title.strip().lower() != "metadata":
            described = title.strip().lower() in DESCRIPTIVE
            extra[title.strip().lower() if described else title] = _of_json_types(value)
            if not described:
                ignored[title] = None
        elif key == "seed" and value in (-1, "-1"):
            ignored["seed -1"] = None
        else:
            try:
                values[key] = _cell(key, value) if record.textual and isinstance(value, str) else value
            except (ValueError, RecursionError) as error:
                return Problem(str(path), record.line, title, f"is not JSON: {error}")
    if extra and isinstance(values.get("metadata", {}), dict):
        values["metadata"] = {**extra, **values.get("metadata", {})}
    return Record(record.line, values, record.textual)


def _note(ignored: Sequence[str]) -> str:
    """What is said of a file's columns and keys that do nothing."""
    notes = []
    names = [name for name in ignored if name != "seed -1"]
    if names:
        hints = [f"{name} (did you mean {near}?)" if (near := _near(name)) else name for name in names[:12]]
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        notes.append(f"{', '.join(hints)}{more}: no effect here, kept as metadata")
    if any(name.lower() in SAMPLERS for name in names):
        notes.append("the sampler is not applied: images are made with the scheduler of the model")
    if len(names) < len(ignored):
        notes.append("seed -1, a random one, is taken for none: these rows have the seed of the run")
    return "; ".join(notes)


def _near(name: str) -> str | None:
    return closest(name.lower(), ROW_KEYS, cutoff=0.85)


def _is_misspelt(name: str) -> bool:
    """Whether a name is one letter away from a key, by what is no more than a slip: "stepz", "promt"."""
    known = (*ROW_KEYS, *ALIASES, *OTHER_WORDS)
    if len(name) < 4 or name in known or any(character.isdigit() for character in name):
        return False
    return any(_one_off(name, key) for key in ROW_KEYS if len(key) > 3)


def _one_off(first: str, second: str) -> bool:
    """Whether a letter less, more or other, or two swapped, make one word of the other."""
    differing = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    common = next(differing, min(len(first), len(second)))
    a, b = first[common:], second[common:]
    return a[1:] == b or b[1:] == a or a[1:] == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])


def _of_json_types(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value


def _cell(name: str, cell: str) -> Any:
    """Lists and mappings are JSON or Python; subjects may also be parted by semicolons, seeds by spaces or commas."""
    if name not in JSON_CELLS:
        return cell.strip()
    if cell.lstrip().startswith(("{", "[")):
        try:
            return json.loads(cell)
        except ValueError:
            try:
                return ast.literal_eval(cell.strip())  # as pandas writes lists
            except (SyntaxError, MemoryError, ValueError):
                pass
            raise
    if name == "subjects":
        return [subject.strip() for subject in cell.split(";")]
    return cell.replace(",", " ").split() if name == "seeds" else cell.strip()
