"""What `edit`, `invert` and `reconstruct` are given: read, or refused with a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attncontrol.attention.layers import Size
from attncontrol.editing.inversion import METHODS, Inversion, scheduler_config
from attncontrol.families import family_of
from attncontrol.families.unet import UNetFamily
from attncontrol.families.xl import XLFamily
from attncontrol.prompt.align import tokenize
from attncontrol.prompt.subjects import find_words

# what `edit` decides itself, or cannot combine with injected attention
NOT_TAKEN = frozenset(
    "control subjects layout grounding prompt_embeds negative_prompt_embeds latents generator "
    "num_images_per_prompt eta return_dict prompt_2 negative_prompt_2 callback_on_step_end_tensor_inputs".split()
)
OF_THE_INVERSION = frozenset("num_inference_steps guidance_scale height width negative_prompt clip_skip".split())


def unet_family(pipe: Any) -> UNetFamily:
    """The family of a pipeline that can edit. Raises ValueError for others."""
    family = family_of(pipe)
    if not isinstance(family, UNetFamily) or family.tokenizer is None:
        raise ValueError(
            f"{type(pipe).__name__} cannot edit: editing needs a pipeline of Stable Diffusion 1.x, 2.x or XL with its "
            "tokenizer and UNet"
        )
    return family


def read_seeds(seed: Any) -> list[int]:
    """A seed or several, as a list."""
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if not seeds or not all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**63 for s in seeds):
        raise ValueError(f"seed must be a whole number from 0 on, or a list of them, got {seed!r}")
    return seeds


@contextmanager
def argument(name: str) -> Iterator[None]:
    """Names the argument at fault in every ValueError of the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_edit(source: Any, prompt: Any, cross: Any, self_attention: Any, variant: Any, kwargs: Mapping) -> None:
    """Raises ValueError for arguments of `edit` that cannot be used."""
    for name, text in (("source", source), ("prompt", prompt)):
        if name == "source" and isinstance(source, Inversion):
            check_replay(source, kwargs)
        elif not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a prompt with at least one word, got {text!r}")
    for name, fraction in (("cross", cross), ("self_attention", self_attention)):
        if fraction is not None and not (isinstance(fraction, int | float) and 0 <= fraction <= 1):
            raise ValueError(f"{name} must be a fraction of the steps from 0 to 1, got {fraction!r}")
    if variant not in ("default", "reference"):
        raise ValueError(f"variant must be 'default' or 'reference', not {variant!r}")
    for name in kwargs:
        if name in NOT_TAKEN:
            raise ValueError(f"edit takes no {name!r}: it comes from the two prompts and the seed, or does not apply")
    _check_sides(kwargs.get("height"), kwargs.get("width"))


def check_replay(inversion: Any, kwargs: Iterable[str]) -> None:
    """Raises ValueError for what is no inversion, and for arguments that it has itself."""
    if not isinstance(inversion, Inversion):
        raise ValueError(f"give an Inversion, from pipe.invert or Inversion.load, not {type(inversion).__name__}")
    for name in kwargs:
        if name in OF_THE_INVERSION or name in NOT_TAKEN:
            raise ValueError(f"an inversion is sampled again as it was made: leave {name!r} out")


def check_invert(
    pipe: Any, family: UNetFamily, prompt: Any, method: Any, steps: Any, scale: Any, height: Any, width: Any
) -> Size:
    """The size in pixels. Raises ValueError for arguments of `invert` that cannot be used."""
    if isinstance(family, XLFamily):
        raise ValueError(
            f"{type(pipe).__name__} cannot invert: its text states come from two encoders and a pooled vector; "
            "pictures can be inverted with Stable Diffusion 1.x and 2.x"
        )
    if family.denoiser.config.in_channels != family.latent_channels:
        raise ValueError("the UNet is one for inpainting, which cannot invert: use the one for text-to-image")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt must say what the picture shows, got {prompt!r}")
    if method not in METHODS:
        raise ValueError(f"method must be {', '.join(map(repr, METHODS))}, not {method!r}")
    schedule = scheduler_config(family)
    most = schedule["num_train_timesteps"]
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= most:
        raise ValueError(f"num_inference_steps must be a whole number from 1 to {most}, got {steps!r}")
    if not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0:
        raise ValueError(f"guidance_scale must be a number from 0 on, got {scale!r}")
    if method != "ddim" and scale <= 1:
        raise ValueError(
            f"{method!r} learns for guided sampling, and a guidance_scale of {scale:g} is without guidance: "
            "use method='ddim', or a scale above 1"
        )
    _check_sides(height, width)
    factor = pipe.vae_scale_factor
    rows, columns = latent_size(pipe, {"height": height, "width": width})
    return rows * factor, columns * factor


def check_background(given: Any) -> Any:
    """ "auto", None or a mask [height, width]. Raises ValueError for other things."""
    if given is None or (isinstance(given, str) and given == "auto"):
        return given
    if isinstance(given, Image.Image):
        given = np.asarray(given.convert("L"))
    if not isinstance(given, np.ndarray | Tensor) or given.ndim != 2:
        raise ValueError("background must be 'auto', None, or a mask [height, width] that is not 0 where no noun is")
    return given


def batch_of(images: Sequence[Any], prompts: Any, paths: Any) -> list[tuple[Any, Any, Any]]:
    """Image, prompt and path of every picture. Raises ValueError if there are not as many of each."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or len(prompts) != len(images):
        raise ValueError(f"{len(images)} images need as many prompts in a list, got {prompts!r}")
    if paths is None:
        paths = [None] * len(images)
    if isinstance(paths, str) or not isinstance(paths, Sequence) or len(paths) != len(images):
        raise ValueError(f"{len(images)} images need as many paths in a list, or none, got {paths!r}")
    return list(zip(images, prompts, paths, strict=True))


def _check_sides(height: Any, width: Any) -> None:
    for name, size in (("height", height), ("width", width)):
        if size is not None and (not isinstance(size, int) or size <= 0 or size % 8):
            raise ValueError(f"{name} must be a positive multiple of 8, got {size!r}")


def latent_size(pipe: Any, kwargs: Mapping[str, Any]) -> Size:
    """(height, width) of the latents of a call."""
    default = pipe.unet.config.sample_size
    default = (default, default) if isinstance(default, int) else tuple(default)
    height, width = (
        d if (given := kwargs.get(name)) is None else given // pipe.vae_scale_factor
        for name, d in zip(("height", "width"), default, strict=True)
    )
    return height, width


def word_positions(prompt: str, word: str, family: UNetFamily) -> tuple[int, ...]:
    """The token positions of a word or phrase wherever it stands in the prompt."""
    tokens = tokenize(family.tokenizer, prompt)
    return tuple(p for span in find_words(prompt, word) for p in tokens.token_indices(span))


def read_factors(prompt: str, weights: Mapping[str, float] | None, family: UNetFamily) -> Tensor | None:
    """A factor for every position of the prompt; None without weights."""
    if not weights:
        return None
    factors = torch.ones(family.text_length)
    for word, factor in weights.items():
        if not isinstance(factor, int | float) or not 0 <= factor < float("inf"):
            raise ValueError(f"the weight of {word!r} must be a number from 0 on, got {factor!r}")
        positions = word_positions(prompt, word, family)
        if not positions:
            raise ValueError(f"{word!r} is no word of {prompt!r}")
        factors[list(positions)] = float(factor)
    return factors


def read_local(
    source: str, prompt: str, local: str | Sequence[str], family: UNetFamily
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The positions of the words to blend by in the two prompts; None without words."""
    words = [local] if isinstance(local, str) else list(local)
    found = [[word_positions(text, word, family) for word in words] for text in (source, prompt)]
    for word, old, new in zip(words, *found, strict=True):
        if not old and not new:
            raise ValueError(f"{word!r} is no word of {source!r} or {prompt!r}")
    before, after = (tuple(p for positions in one for p in positions) for one in found)
    return (before, after) if words else None
