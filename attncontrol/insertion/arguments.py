"""What `insert` is given: read, or refused with a sentence."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from attncontrol.arguments import is_seed, nearest
from attncontrol.attention.layers import Layer, Size, match_layers
from attncontrol.families import family_of
from attncontrol.families.flux import FluxFamily
from attncontrol.insertion.settings import PUBLISHED_STEPS, AddIt
from attncontrol.models import default_call, insertion_settings
from attncontrol.prompt.align import tokenize
from attncontrol.prompt.subjects import find_words

ARTICLE = re.compile(r"^(an?|the|some)\s+", re.IGNORECASE)
MAP_BLOCKS = (("joint", (13 / 19, 14 / 19, 18 / 19)), ("single", (23 / 38, 33 / 38)))  # of FLUX.1's 19 and 38
CALL = {"num_inference_steps": PUBLISHED_STEPS, "guidance_scale": 3.5, "max_sequence_length": 512}


def flux_family(pipe: Any) -> FluxFamily:
    """The family of a pipeline that can insert. Raises ValueError for others."""
    family, name = family_of(pipe), type(pipe).__name__
    if not isinstance(family, FluxFamily):
        raise ValueError(
            f"{name} cannot insert: insertion needs joint attention, that is a FLUX.1 pipeline. Load one, as the "
            "bundled 'emoji-flux' or black-forest-labs/FLUX.1-dev"
        )
    config: Any = family.denoiser.config
    if config.out_channels not in (None, config.in_channels):
        raise ValueError(
            f"{name} cannot insert: its transformer takes masks or controls beside the latents. Load a text-to-image "
            "checkpoint of FLUX.1"
        )
    if type(pipe.scheduler) is not FlowMatchEulerDiscreteScheduler or pipe.scheduler.config.stochastic_sampling:
        raise ValueError(
            f"{name} cannot insert with this {type(pipe.scheduler).__name__}: it needs a "
            "FlowMatchEulerDiscreteScheduler without stochastic_sampling"
        )
    return family


def read_source(source: Any, prompt: Any) -> tuple[Any, str]:
    """The picture to insert into, None if it is to be drawn, and the prompt of the scene."""
    is_prompt = isinstance(source, str) and prompt is None
    if is_prompt and os.path.isfile(source):
        raise ValueError(f"{source!r} is a file: say what the picture shows with prompt='...'")
    if not is_prompt and (not isinstance(prompt, str) or not prompt.strip()):
        raise ValueError(f"prompt must say what the picture shows, got {prompt!r}")
    if is_prompt and not source.strip():
        raise ValueError(f"source must be a prompt with at least one word, or a picture, got {source!r}")
    return (None, source) if is_prompt else (source, prompt)


def read_target(prompt: str, thing: Any, target: Any) -> str:
    """The prompt of the scene with the new thing. Raises ValueError if it does not name it, or is the scene's."""
    if not isinstance(thing, str) or not _named(thing):
        raise ValueError(f"the thing to insert must be named, as 'a cat', got {thing!r}")
    if target is None:
        return f"{prompt} and {thing.strip()}"
    if not isinstance(target, str) or not target.strip():
        raise ValueError(f"prompt_target must be a prompt with at least one word, got {target!r}")
    if target.split() == prompt.split():
        raise ValueError(f"the prompts are equal ({target!r}): prompt_target must also name {thing!r}")
    if not find_words(target, _named(thing)):
        raise ValueError(f"prompt_target {target!r} does not name {thing!r}: write it there as here")
    return target


def _named(thing: str) -> str:
    """A thing without its article."""
    return ARTICLE.sub("", f"{thing.strip()} ", count=1).strip()


def subject_positions(family: FluxFamily, thing: str, target: str, published: bool) -> list[int]:
    """The token positions of the thing in the target prompt, where it is named last.

    As published, they are those of the first pieces of the prompt that have the same text.

    Raises:
        ValueError: If there are none.
    """
    tokens = tokenize(family.tokenizer, target)
    if published:
        alone = tokenize(family.tokenizer, _named(thing))
        pieces = [alone.pieces[p] for p in alone.positions()]
        positions = [tokens.pieces.index(piece) for piece in pieces if piece in tokens.pieces]
    else:
        positions = list(tokens.token_indices(find_words(target, _named(thing))[-1]))
    if not positions:
        raise ValueError(f"the text encoder has no pieces for {thing!r} in {target!r}: write it with spaces around it")
    return positions


def read_call(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Steps, guidance scale, text length and size in pixels: given, else the checkpoint's, else those published."""
    known = {**CALL, **(default_call(pipe.name_or_path) if pipe.name_or_path else {})}
    call: dict[str, Any] = {name: known.get(name) if value is None else value for name, value in given.items()}
    for name, most in (("num_inference_steps", 1000), ("max_sequence_length", 512)):
        if not isinstance(call[name], int) or isinstance(call[name], bool) or not 1 <= call[name] <= most:
            raise ValueError(f"{name} must be a whole number from 1 to {most}, got {call[name]!r}")
    scale = call["guidance_scale"]
    if not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0:
        raise ValueError(f"guidance_scale must be a number from 0 on, got {scale!r}")
    multiple = 2 * pipe.vae_scale_factor
    for name in ("height", "width"):
        size = call[name] = pipe.default_sample_size * pipe.vae_scale_factor if call[name] is None else call[name]
        if not isinstance(size, int) or size <= 0 or size % multiple:
            raise ValueError(f"{name} must be a positive multiple of {multiple}, got {size!r}")
    return call


def read_seeds(seed: Any, thing: Any) -> tuple[int, int]:
    """The seeds of the scene and of the new image."""
    thing = seed if thing is None else thing
    for name, value in (("seed", seed), ("seed_target", thing)):
        if not isinstance(value, int) or isinstance(value, bool) or not is_seed(str(value)):
            raise ValueError(f"{name} must be a whole number from 0 on, got {value!r}")
    return seed, thing


def read_settings(pipe: Any, settings: Any, is_picture: bool) -> AddIt:
    """The given settings, else those tuned for the checkpoint over those published."""
    if isinstance(settings, AddIt):
        return settings
    if settings is not None and not isinstance(settings, Mapping):
        raise TypeError(f"settings must be an AddIt or a mapping of its settings, not {type(settings).__name__}")
    given = settings or {}
    has_own = pipe.name_or_path and given.get("variant") != "reference"
    tuned = insertion_settings(pipe.name_or_path).get("pictures" if is_picture else "drawn", {}) if has_own else {}
    chosen = {**tuned, **given}
    known = [field.name for field in dataclasses.fields(AddIt)]
    for name in chosen:
        if name not in known:
            raise ValueError(f"Add-it has no setting {name!r}{nearest(name, known)}")
    return AddIt.for_pictures(**chosen) if is_picture else AddIt(**chosen)


def map_layers(layers: list[Layer], patterns: str) -> list[Layer]:
    """The layers whose maps make masks: named, else the published ones, at the same depth of other models."""
    if patterns:
        return match_layers(layers, patterns)
    chosen = []
    for place, depths in MAP_BLOCKS:
        stack = [layer for layer in layers if layer.place == place]
        chosen += [stack[int(depth * len(stack) + 1e-6)] for depth in depths if stack]
    return list(dict.fromkeys(chosen))


def check_model(family: FluxFamily, prompts: tuple[str, str], length: int) -> None:
    """Raises ValueError if the text encoder would cut words off; warns of a model made for few steps."""
    family.check_encoding(prompts, {"max_sequence_length": length})
    config: Any = family.denoiser.config
    if not config.guidance_embeds:
        warnings.warn(
            "this FLUX has no guidance embedding and was made for few steps (schnell): Add-it was made for FLUX.1-dev",
            stacklevel=3,
        )


def token_size(pipe: Any, call: Mapping[str, Any]) -> Size:
    """(height, width) in tokens."""
    multiple = 2 * pipe.vae_scale_factor
    return call["height"] // multiple, call["width"] // multiple


def check_finite(latents: torch.Tensor, step: int, total: int, what: str) -> None:
    """Raises ValueError, saying the step, if latents are not finite."""
    if not torch.isfinite(latents).all():
        raise ValueError(
            f"the latents are not finite after call {step} of {total} of the model, in the {what}. A model in float16 "
            "may overflow: try bfloat16 or float32"
        )
