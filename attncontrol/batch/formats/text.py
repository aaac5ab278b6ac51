"""Plain text, one prompt a line, and the option lines of A1111's script "Prompts from file"."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from attncontrol.batch.formats.lines import numbered_lines, too_long
from attncontrol.batch.formats.raw_row import Problem, Record

OPTIONS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "cfg_scale": "guidance_scale",
    "width": "width",
    "height": "height",
}
COUNTS = ("batch_size", "n_iter")
UNSUPPORTED = (
    "sd_model outpath_samples outpath_grids prompt_for_display styles subseed subseed_strength seed_resize_from_h "
    "seed_resize_from_w sampler_index sampler_name restore_faces tiling do_not_save_samples do_not_save_grid"
).split()


def read_text(path: Path) -> Iterator[Record | Problem]:
    """One prompt a line; empty lines and lines that begin with # are skipped; lines that begin with -- are options."""
    for number, line in numbered_lines(path):
        if line is None:
            yield Problem(str(path), number, None, too_long())
        elif not line.strip() or line.lstrip().startswith("#"):
            continue
        elif line.lstrip().startswith("--"):
            try:
                yield Record(number, _options(line), textual=True)
            except _OptionError as error:
                yield Problem(str(path), number, error.option, error.message)
        else:
            yield Record(number, {"prompt": line.strip()}, textual=True)


class _OptionError(Exception):
    def __init__(self, option: str | None, message: str) -> None:
        self.option, self.message = option, message


def _options(line: str) -> dict[str, str]:
    """The values of one option line. batch_size and n_iter multiply to images_per_prompt."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise _OptionError(None, f"{error}: put text with quotes inside in the other kind of quotes") from error
    values: dict[str, str] = {}
    images = 1
    for option, value in _pairs(words):
        if option in values or OPTIONS.get(option) in values:
            raise _OptionError(f"--{option}", "is given twice")
        if option in COUNTS:
            images *= _count(option, value)
            values["images_per_prompt"] = str(images)
        elif option in OPTIONS:
            values[OPTIONS[option]] = value
        elif option in UNSUPPORTED:
            values[option] = value
        else:
            known = ", ".join(f"--{name}" for name in (*OPTIONS, *COUNTS))
            raise _OptionError(f"--{option}", f"is no option; there are: {known}")
    return values


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """Options with their values; a prompt may be several words."""
    while words:
        option, *words = words
        if not option.startswith("--"):
            raise _OptionError(None, f"expected an option that begins with --, not {option!r}")
        value = []
        while words and not words[0].startswith("--") and (option.endswith("prompt") or not value):
            value.append(words.pop(0))
        if not value:
            raise _OptionError(option, "has no value")
        yield option.removeprefix("--"), " ".join(value)


def _count(option: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= 10_000:
        raise _OptionError(f"--{option}", f"must be a whole number from 1 to 10000, not {value!r}")
    return int(value)
