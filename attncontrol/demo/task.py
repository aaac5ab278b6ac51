"""What a visitor asks for: read, checked against the limits and the model, and made."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from attncontrol.arguments import LARGEST_SEED, PLAIN, read_assignment, read_seeds
from attncontrol.control import prepare_targets
from attncontrol.demo.previews import previews
from attncontrol.demo.schema import ITEMS, read_boxes, read_settings, read_subject_list
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Progress, Report, Studio
from attncontrol.grounding import read_grounding
from attncontrol.images.drawing import Drawn, Request, draw
from attncontrol.images.sampling import Sampling
from attncontrol.layout import place, read_layout
from attncontrol.losses import MethodSum
from attncontrol.losses.combining import resolve_control, with_settings
from attncontrol.models import default_call
from attncontrol.prompt import structure_of

LONGEST = 80  # of a number or a method's name as a visitor writes it, and of what an error quotes of it


class FieldError(ValueError):
    """A sentence about what is wrong in one field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message[:1].upper() + message[1:])
        self.field = field


@contextmanager
def field(name: str) -> Iterator[None]:
    """Any ValueError of the block becomes a FieldError of this field."""
    try:
        yield
    except FieldError:
        raise
    except (ValueError, TypeError) as error:
        raise FieldError(name, str(error)) from error


@dataclass(frozen=True)
class Task:
    """Images of one prompt: plain and, with methods or grounding, controlled, on the seeds from `seed` on."""

    request: Request
    methods: MethodSum
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """Two images from the same seed; `controlled` is None if no control was asked for."""

    plain: Drawn
    controlled: Drawn | None = None

    @property
    def result(self) -> Drawn:
        """What was asked for: the controlled image if there is one."""
        return self.controlled or self.plain


def read_task(
    studio: Studio,
    limits: Limits,
    *,
    prompt: str,
    method: str = PLAIN,
    settings: Mapping[str, Any] | None = None,
    subjects: Any = None,
    layout: Any = None,
    seed: Any = 0,
    images: Any = 1,
    negative_prompt: str = "",
    grounding: Any = PLAIN,
    **sampling: Any,
) -> Task:
    """A checked task. Raises FieldError that names the field at fault, before anything is drawn.

    settings: of the method, as JSON or as text. sampling: steps, guidance_scale, width, height.
    """
    first = whole_number("seed", seed, 0, LARGEST_SEED)
    seeds = tuple(range(first, first + whole_number("images", images, 1, limits.images)))
    request = read_request(studio, limits, prompt, negative_prompt, subjects=subjects, layout=layout, **sampling)
    with field("grounding"):
        gates = read_grounding(None if grounding == PLAIN else grounding)
        if gates is not None and not studio.has_gates:
            raise ValueError("this model has no gates that could be told of boxes.")
    request = replace(request, grounding=None if gates is None else gates.to_json())
    methods = read_method(studio, method, settings or {})
    check(studio, request, methods)
    return Task(request, methods, seeds)


def read_request(
    studio: Studio,
    limits: Limits,
    prompt: str,
    negative_prompt: str = "",
    *,
    steps: Any,
    guidance_scale: Any,
    width: Any = None,
    height: Any = None,
    subjects: Any = None,
    layout: Any = None,
) -> Request:
    """What all images of a task share. Raises FieldError."""
    with field("layout"):
        layout = read_boxes(layout)
    with field("subjects"):
        subjects = read_subject_list(subjects)
    if negative_prompt and not studio.takes_negative_prompt:
        raise FieldError("negative_prompt", "this model heeds no negative prompt: leave it empty.")
    return Request(
        studio.model,
        read_text("prompt", prompt, limits, needed=True),
        Sampling(
            negative_prompt=read_text("negative_prompt", negative_prompt, limits),
            steps=whole_number("steps", steps, 1, limits.steps),
            guidance_scale=number("guidance_scale", guidance_scale, 0, 100),
            width=read_side("width", width, studio, limits),
            height=read_side("height", height, studio, limits),
        ),
        subjects,
        layout,
        layout,
        maps=True,
    )


def read_text(name: str, text: Any, limits: Limits, needed: bool = False) -> str:
    """A prompt. Raises FieldError if it is missing or too long."""
    if not isinstance(text, str | None):
        raise FieldError(name, "this must be a text.")
    text = (text or "").strip()
    if needed and not text:
        raise FieldError(name, "the prompt is empty: say what to draw, for instance “a bird and a suitcase”.")
    if len(text) > limits.prompt_characters:
        raise FieldError(
            name, f"this has {len(text)} characters; at most {limits.prompt_characters} are allowed here."
        )
    if not text.isprintable() and any(ord(sign) < 32 and sign not in "\t\n\r" for sign in text):
        raise FieldError(name, "this has a control character, such as U+0000; take it out.")
    return text


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """Raises FieldError unless the value is a whole number from `least` to `most`."""
    if isinstance(value, str) and len(value) <= LONGEST and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if not _is_number(value) or value != value // 1:
        raise FieldError(name, f"{_shown(value)} is not a whole number; give one from {least} to {most}.")
    if not least <= value <= most:
        raise FieldError(name, f"{_shown(int(value))} is out of range; give a whole number from {least} to {most}.")
    return int(value)


def number(name: str, value: Any, least: float, most: float) -> float:
    """Raises FieldError unless the value is a finite number from `least` to `most`."""
    if not _is_number(value):
        raise FieldError(name, f"{_shown(value)} is not a number; give one from {least:g} to {most:g}.")
    if not least <= value <= most:
        raise FieldError(name, f"{_shown(value)} is out of range; give a number from {least:g} to {most:g}.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _shown(value: Any) -> str:
    if value in (None, ""):
        return "an empty field"
    if isinstance(value, int) and abs(value) >= 10**LONGEST:
        return "this"  # a number of more digits than Python prints
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def read_side(name: str, value: Any, studio: Studio, limits: Limits) -> int:
    """A side of the image in pixels, the model's own by default. Raises FieldError."""
    side = whole_number(name, studio.size if value is None else value, 8, max(limits.size, studio.size))
    if side % 8:
        raise FieldError(name, f"{side} is not a multiple of 8; the nearest is {max(8, round(side / 8) * 8)}.")
    return side


def read_method(studio: Studio, method: str, settings: Mapping[str, Any]) -> MethodSum:
    """The method, preset or sum of methods with its settings. Raises FieldError of "method" or "settings"."""
    if method == PLAIN:
        return MethodSum()
    if not isinstance(method, str) or len(method) > LONGEST:
        raise FieldError("method", "this is no method's name.")
    with field("method"):
        methods = resolve_control(method, studio.tuned)
    with field("settings"):
        given = dict(
            read_assignment(f"{name}={value}") if isinstance(value, str) else (name, value)
            for name, value in read_settings(settings).items()
        )
        if any(isinstance(value, list | dict) and len(value) > ITEMS for value in given.values()):
            raise ValueError(f"a setting may have at most {ITEMS} numbers here")
        return with_settings(methods, given)


def needs_boxes(studio: Studio, method: str) -> bool:
    """Whether a method, preset or sum needs a layout; False for what is none of these."""
    try:
        return any(part.needs_layout for _, part in read_method(studio, method, {}).parts)
    except FieldError:
        return False


def read_seed_list(text: str, limits: Limits) -> list[int]:
    """Seeds separated by commas. Raises FieldError of "seeds"."""
    with field("seeds"):
        if not isinstance(text, str | None) or len(text or "") > 20 * LONGEST:
            raise ValueError("give whole numbers separated by commas, as in 0,1,2")
        try:
            seeds = read_seeds(text or "")
        except ValueError as error:
            raise ValueError(str(error).removeprefix("--seeds: ")) from error
    if len(seeds) > limits.images:
        raise FieldError("seeds", f"these are {len(seeds)} seeds; at most {limits.images} are allowed here.")
    return seeds


def check(studio: Studio, request: Request, methods: MethodSum) -> None:
    """Raises FieldError for subjects, boxes or a method that this prompt does not allow."""
    tokenizer = studio.tokenizer
    limit = default_call(studio.model).get("max_sequence_length")
    if limit is not None and (needed := tokenizer.encoders[-1].needed(request.prompt)) > limit:
        raise FieldError("prompt", f"the prompt needs {needed} tokens; this model reads {limit}: shorten it.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with field("subjects"):
            structure = structure_of(request.prompt, tokenizer, request.subjects)
        with field("layout"):
            if request.layout is not None:
                place(read_layout(request.layout), structure, tokenizer)
        if request.layout is None and any(method.needs_layout for _, method in methods.parts):
            raise FieldError("layout", "this method needs boxes: draw one for each thing, or press “Automatic”.")
        if request.layout is None and request.grounding is not None:
            raise FieldError("layout", "grounding needs boxes: draw one for each thing, or press “Automatic”.")
        with field("method"):
            prepare_targets(studio.pipe, methods, request.prompt, request.subjects, request.layout, None)


def make_pairs(studio: Studio, task: Task, report: Report) -> list[Pair]:
    """Draws a task's images, plain and controlled in turn; reports `Progress` after every step."""
    variants = [(replace(task.request, grounding=None), MethodSum())]
    if task.methods.parts or task.request.grounding is not None:
        variants.append((task.request, task.methods))
    total = len(task.seeds) * len(variants) * task.request.sampling.steps
    done = 0
    pairs = []
    with previews(studio.pipe, task.request.sampling.width, task.request.sampling.height) as preview:
        for seed in task.seeds:
            drawn = []
            for number, (request, methods) in enumerate(variants):
                what = f"seed {seed}, {'with control' if number else 'plain'}"

                def on_step(more: int, what: str = what) -> None:
                    nonlocal done, total
                    done, total = done + 1, total + more
                    report(Progress(done, total, what, preview()))

                with field("settings"):  # what only the run itself can find wrong
                    drawn.append(draw(studio.pipe, request, methods, seed, on_step))
            pairs.append(Pair(*drawn))
    return pairs
