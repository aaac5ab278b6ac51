"""Attaching control to any diffusers pipeline, and putting the pipeline back as it was."""

from __future__ import annotations

import dataclasses
import functools
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from attncontrol.families import family_of, grounded_family
from attncontrol.families.base import Family
from attncontrol.families.compiled import Answer, before_call
from attncontrol.families.modular import see_runs, stock_like
from attncontrol.grounding.run import GroundedRun, check_phrases, grounded_boxes
from attncontrol.grounding.settings import Grounding, read_grounding
from attncontrol.guidance.cost import Memory
from attncontrol.guidance.engine import Engine, Guidance
from attncontrol.guidance.looking import MapSettings
from attncontrol.guidance.record import ControlRecord
from attncontrol.guidance.schedulers import keep_given_sample, keeps_float32, noise_levels, starting_calls
from attncontrol.guidance.settings import settings_of, with_references
from attncontrol.guidance.targets import Target
from attncontrol.layout import place, read_layout
from attncontrol.losses.base import Context, MethodSum
from attncontrol.losses.combining import Control, resolve_control
from attncontrol.prompt import resolve_subjects, structure_of
from attncontrol.prompt.align import check_second_tokenizer


def attach(
    pipe: Any,
    control: Control,
    *,
    prompt: str | Sequence[str] | None = None,
    subjects: Sequence[Any] | None = None,
    layout: Any = None,
    grounding: bool | str | Grounding | Mapping[str, Any] | None = None,
    parser: Any = None,
    record_maps: bool | MapSettings = False,
    memory: Memory = "auto",
    text_length: int | None = None,
) -> AttentionControl:
    """Controls every call of a diffusers pipeline made inside a `with` block.

    Args:
        pipe: Any pipeline around a Stable Diffusion UNet (text-to-image, image-to-image, inpainting, ControlNet, ...)
            or a transformer of docs/works_with.md, stock or modular. It is left as it was when the block ends.
        control: A method's name, a method, or methods added up: "syngen", "conform + 0.5*syngen", `SynGen(stop=0.3)`.
        prompt: The prompt, or the list of them, that the pipeline will be called with.
        subjects: Words or phrases of the prompt, token indices, or groups of them; parsed from the prompt if absent.
            For a list of prompts one entry per prompt.
        layout: Boxes (x0, y0, x1, y1) in 0..1 by phrase, or what else `read_layout` takes; for a list of prompts one
            entry per prompt.
        grounding: True, "reground" or a `Grounding`: the UNet, one with GLIGEN's gates, is told of the layout, too.
        parser: A spaCy pipeline, or its name, that finds the subjects.
        record_maps: Whether to keep each subject's map of every step (one more denoiser pass per step), without a
            control every word's; `MapSettings` choose layers and steps, and what is kept apart.
        memory: "low" recomputes activations in the backward pass instead of keeping them, "fast" keeps them, "auto"
            does so if what `attncontrol.guidance.cost` counts fits into nine tenths of the device's free memory.
        text_length: The positions of a prompt that is given as embeddings, where they are more than the text encoder's
            (compel).

    Returns:
        What controls the pipeline inside the block; its `record` says afterwards what was guided.

    Raises:
        ValueError: If the pipeline, a method, a subject, a layout or a grounding cannot be used.

    Example:
        with attach(pipe, "syngen", prompt="a red crown and a blue bow") as control:
            image = pipe("a red crown and a blue bow", image=...).images[0]
        control.record.images[0].steps
    """
    pipe = stock_like(pipe)
    settings = settings_of(pipe)
    methods = with_references(family_of(pipe), resolve_control(control, settings), settings)
    prepared = prepare_targets(pipe, methods, prompt, subjects, layout, parser, text_length)
    run = None
    if (told := read_grounding(grounding)) is not None:
        prepared, run = _ground(pipe, told, prepared)
    return AttentionControl(pipe, methods, prepared, record_maps=record_maps, memory=memory, grounding=run)


def _ground(pipe: Any, grounding: Grounding, targets: Sequence[Target]) -> tuple[list[Target], GroundedRun]:
    """The targets with grounded layouts, and what tells the UNet of them."""
    family = grounded_family(pipe)
    check_phrases(grounding, [target.structure for target in targets])
    found = [grounded_boxes(grounding, t.structure, t.layout, pipe.tokenizer) for t in targets]
    grounded = [dataclasses.replace(t, layout=layout) for t, (_, layout) in zip(targets, found, strict=True)]
    return grounded, GroundedRun(family, grounding, [boxes for boxes, _ in found])


@dataclass
class _Run:
    """One run of a pipeline, from setting its timesteps to its last step.

    `thread` is the one it runs in, None before it begins; `starts` says of every denoiser call whether a move in it
    lasts. `guidance` is that of the running iteration, in the scale of the model's input, which `input_scale` undoes.
    """

    engine: Engine
    thread: int | None = None
    starts: list[bool] | None = None
    calls: int = 0
    guided_call: int = -1
    is_guiding: bool = False
    guidance: Guidance = Guidance()
    input_scale: Any = 1.0


class AttentionControl:
    """A context manager that guides a pipeline's calls. Made by `attach`.

    A hook before the denoiser moves its input, an interception of the scheduler's step moves the sample likewise (in
    its own scale); nothing else of the pipeline is touched, and both are removed on any exit.
    """

    def __init__(
        self,
        pipe: Any,
        methods: MethodSum,
        targets: Sequence[Target],
        *,
        record_maps: bool | MapSettings,
        memory: Memory,
        grounding: GroundedRun | None = None,
    ) -> None:
        if memory not in get_args(Memory):
            raise ValueError(f"memory must be 'auto', 'fast' or 'low', not {memory!r}")
        self.pipe, self.methods, self.targets = pipe, methods, list(targets)
        self.record_maps, self.memory = record_maps, memory
        self.draws_anew = False  # whether who makes the calls makes further ones where the sum's judge wants them
        self._grounding = grounding
        self._family = family_of(pipe) if grounding is None else grounding.family
        self._run = self._new_run()

    @property
    def record(self) -> ControlRecord:
        """What the last call did, one entry per image."""
        return self._run.engine.record

    def __enter__(self) -> AttentionControl:
        scheduler = self.pipe.scheduler
        if "step" in vars(scheduler):
            raise ValueError("this pipeline is already under control: leave the other `with attach(...)` block first")
        if (judge := self.methods.judge) is not None and not self.draws_anew:
            raise ValueError(
                f"{judge.name} has pictures drawn anew, which no `with attach(...)` block can do: pass control= "
                "to the call of an AttentionControlPipeline, or leave it out"
            )
        self._scheduler = scheduler
        self._run = self._new_run()
        if self._grounding is not None:
            self._grounding.install()
        self._hook()
        self._end_of_runs = see_runs(self.pipe)
        self._prompt_is_checked = False
        if hasattr(self.pipe, "encode_prompt"):
            self.pipe.encode_prompt = self._checking(self.pipe.encode_prompt)
        scheduler.step = self._moving_step(scheduler.step)
        scheduler.set_timesteps = self._starting(scheduler.set_timesteps)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._unhook()
        self._end_of_runs()
        if self._grounding is not None:
            self._grounding.remove()
        for name in ("step", "set_timesteps"):
            vars(self._scheduler).pop(name, None)
        vars(self.pipe).pop("encode_prompt", None)
        if exception[0] is None and self._run.thread is None:
            warnings.warn(
                f"no call of the {type(self.pipe).__name__} under control was made, so nothing was guided: attach "
                "to the pipeline that you call",
                stacklevel=2,
            )

    def _hook(self) -> None:
        """Sees every call of the denoiser, however it is compiled at the moment."""
        called = self._family.called
        self._unhook = before_call(called, self._before_denoiser)
        self._hooked = called, called._compiled_call_impl

    def _new_run(self, thread: int | None = None) -> _Run:
        engine = Engine(self._family, self.methods, self.targets, record_maps=self.record_maps, memory=self.memory)
        return _Run(engine, thread)

    def _checking(self, encode_prompt: Any) -> Any:
        """`encode_prompt` that refuses another prompt than the one whose words are guided; it comes first in a run."""

        @functools.wraps(encode_prompt)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            prompt = kwargs.get("prompt", args[0] if args else None)
            is_first, self._prompt_is_checked = not self._prompt_is_checked, True
            if is_first and prompt is not None:  # else it was given encoded, and this is perhaps the negative one
                given = [prompt] if isinstance(prompt, str) else list(prompt)
                guided = [target.structure.prompt for target in self.targets]
                if None not in guided and given != guided:
                    raise ValueError(
                        f"this block controls the prompt {_shown(guided)}, but the pipeline was called with "
                        f"{_shown(given)}: attach with the prompt of the call, in a `with` block for each"
                    )
                self._family.check_encoding(given, kwargs)
            return encode_prompt(*args, **kwargs)

        return wrapper

    def _starting(self, set_timesteps: Any) -> Any:
        """Every run of a pipeline sets its timesteps once, first of all: state of an earlier run ends there."""

        @functools.wraps(set_timesteps)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.begin()
            return set_timesteps(*args, **kwargs)

        return wrapper

    def begin(self) -> None:
        """Begins a run in this thread. Setting timesteps does so; a loop whose timesteps are set before calls this."""
        family = family_of(self.pipe) if self._grounding is None else grounded_family(self.pipe)
        if family.denoiser is not self._family.denoiser:
            raise RuntimeError("the UNet was replaced under control: set it before `with attach(...)`")
        self._family = family
        if self._hooked != (family.called, family.called._compiled_call_impl):  # compiled under control
            self._unhook()
            self._hook()
        self._run = self._new_run(threading.get_ident())
        self._prompt_is_checked = False
        if self._grounding is not None:
            self._grounding.start(family)

    def _before_denoiser(
        self, module: Any, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | Answer:
        run = self._run
        if run.is_guiding:
            return args, kwargs
        if self.pipe.scheduler is not self._scheduler:
            raise RuntimeError("the scheduler was replaced under control: set it before `with attach(...)`")
        if threading.get_ident() != run.thread:  # another pipeline shares the denoiser
            return args, kwargs
        if self._grounding is not None:
            kwargs = self._grounding.told(args, kwargs, run.calls, len(self._solver_calls(run)))
        call = self._family.bind(args, kwargs)
        is_guided = run.guided_call != run.calls and self._starts_iteration(run)
        if is_guided:
            run.guided_call = run.calls
            run.is_guiding = True
            try:
                has_levels = run.engine.moves_after and keeps_float32(self._scheduler)
                noise = noise_levels(self._scheduler) if has_levels else None
                run.guidance = run.engine.guide(call, sum(run.starts[: run.calls]), sum(run.starts), noise)
            finally:
                run.is_guiding = False
        z, seen = self._family.latents(call), run.guidance.seen
        if run.guidance.move is not None:
            run.input_scale = self._family.input_scale(self._scheduler, call, z.device)
        if is_guided and run.guidance.output is not None:
            return Answer(run.guidance.output)
        if seen is None:
            return args, kwargs
        return self._family.moved(args, kwargs, (z.float() + torch.cat([seen] * (len(z) // len(seen)))).to(z.dtype))

    def _starts_iteration(self, run: _Run) -> bool:
        """Whether a move in this call lasts: one iteration of guidance per step of the scheduler's solver."""
        starts = self._solver_calls(run)
        return run.calls < len(starts) and starts[run.calls]

    def _solver_calls(self, run: _Run) -> list[bool]:
        """For every call of the run, whether it starts a step of the solver."""
        if run.starts is None:
            calls = getattr(self.pipe, "num_timesteps", None) or len(self._scheduler.timesteps)
            run.starts = starting_calls(self._scheduler, calls)
        return run.starts

    def _moving_step(self, step: Any) -> Any:
        """`scheduler.step` that starts from the moved sample."""

        @functools.wraps(step)
        def wrapper(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            run = self._run
            if run.guidance.move is not None:
                moved = sample.float() + run.guidance.move / run.input_scale
                sample = moved if keeps_float32(self._scheduler) else moved.to(sample.dtype)
                keep_given_sample(self._scheduler)
            run.guidance = Guidance()
            run.calls += 1
            return step(model_output, timestep, sample, *args, **kwargs)

        return wrapper


def _shown(prompts: Sequence[str]) -> str:
    return repr(prompts[0]) if len(prompts) == 1 else repr(list(prompts))


def prepare_targets(
    pipe: Any,
    methods: MethodSum,
    prompt: Any,
    subjects: Any,
    layout: Any,
    parser: Any,
    text_length: int | None = None,
) -> list[Target]:
    """Prepares one `Target` per prompt, checked against every method.

    Args:
        pipe: The pipeline that the prompts are for.
        methods: As `resolve_control` gives them.
        prompt: As for `attach`, and so are the others.
        subjects: Likewise.
        layout: Likewise.
        parser: Likewise.
        text_length: Likewise.

    Returns:
        The targets in the order of the prompts; one without a list of them.

    Raises:
        ValueError: For a prompt, a subject or a layout that cannot be used.
    """
    single = prompt is None or isinstance(prompt, str)
    prompts = [prompt] if single else list(prompt)
    subjects = [subjects] if single else _one_per_prompt("subjects", subjects, len(prompts))
    shared = single or layout == "auto"
    layouts = [layout] * len(prompts) if shared else _one_per_prompt("layout", layout, len(prompts))
    family = family_of(pipe)
    prepared = []
    for text, wanted, places in zip(prompts, subjects, layouts, strict=True):
        target = _prepare_target(family, text, wanted, places, parser, text_length)
        for other in family.tokenizers[1:] if text is not None else ():
            check_second_tokenizer(target.structure, family.tokenizer, other)
        for _, method in methods.parts:
            method.check(Context(target.structure, 0, 1, layout=target.layout, drop_padding=family.drop_padding))
        prepared.append(target)
        if text is not None and methods.parts and places is None and not target.structure.entities:
            warnings.warn(f"no subjects found in {text!r}: it is sampled without control", stacklevel=3)
    return prepared


def _prepare_target(
    family: Family, prompt: str | None, subjects: Any, layout: Any, parser: Any, text_length: int | None
) -> Target:
    if prompt is None:
        if subjects is None:
            raise ValueError("without the prompt's text its words are unknown: pass subjects as token indices")
        length = text_length or family.text_length
        structure = resolve_subjects(subjects, None, family.tokenizer, length=length, text=family.text)
    elif not prompt.strip():
        raise ValueError("the prompt is empty: there is nothing to control. Give a prompt, or control=None")
    else:
        structure = structure_of(prompt, family.tokenizer, subjects, parser)
    if layout is not None:
        return Target(*place(read_layout(layout), structure, family.tokenizer))
    return Target(structure)


def _one_per_prompt(name: str, values: Any, count: int) -> list[Any]:
    if values is None:
        return [None] * count
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise ValueError(f"for a list of {count} prompts, {name} must be a list with one entry per prompt")
    return list(values)
