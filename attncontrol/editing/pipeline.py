"""What an `AttentionControlPipeline` can do with two prompts: `edit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from attncontrol.attention.layers import choose_size
from attncontrol.editing.alignment import Change, align_prompts
from attncontrol.editing.blend import LocalBlend
from attncontrol.editing.injection import Injection
from attncontrol.families import family_of
from attncontrol.families.unet import UNetFamily
from attncontrol.prompt.align import tokenize

# what `edit` decides itself, or cannot combine with injected attention
NOT_TAKEN = frozenset(
    "control subjects layout grounding record_maps prompt_embeds negative_prompt_embeds latents generator "
    "num_images_per_prompt eta return_dict prompt_2 negative_prompt_2 callback_on_step_end_tensor_inputs".split()
)


@dataclass
class EditOutput(BaseOutput):
    """Result of an edit: the edited `images`, the `sources` they came from, and the `changes` between the prompts."""

    images: Any
    sources: Any
    changes: tuple[Change, ...]


class EditingMixin:
    """Editing for pipelines around a Stable Diffusion UNet."""

    @torch.no_grad()
    def edit(
        self,
        source: str,
        prompt: str,
        *,
        seed: int | Sequence[int] = 0,
        cross: float = 0.8,
        self_attention: float = 0.4,
        local: str | Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        parser: Any = None,
        **kwargs: Any,
    ) -> EditOutput:
        """Generates an image and the same image with another prompt (prompt-to-prompt).

        Both start from the same noise and run as one batch; words that are in both prompts, and what takes the place
        of a replaced word, look where the source's words look.

            pipe.edit("a red car and a cat", "a blue car and a cat", seed=3).images[0]

        Args:
            source: Prompt of the image to edit.
            prompt: What it should show instead.
            seed: Of the noise; several for a batch of images.
            cross: Fraction of the steps, from the first, in which cross-attention is taken over.
            self_attention: The same for self-attention; more keeps more of the source's shapes.
            local: Words of either prompt; the image changes only where they look.
            weights: Factors for the attention of words of `prompt`, as in {"big": 3.0}.
            parser: As in a call of the pipeline.
            **kwargs: Other arguments of the pipeline, such as num_inference_steps, guidance_scale, height, width.
        Returns:
            The edited images and their sources.
        Raises:
            ValueError: If the prompts do not differ, a word is not in them, or a value cannot be used.
        """
        family, seeds = _unet_family(self), _seeds(seed)
        _check(source, prompt, cross, self_attention, kwargs)
        n = len(seeds)
        injection = Injection(
            align_prompts(source, prompt, family.tokenizer, family.text_length, parser),
            n,
            cross,
            self_attention,
            finest := choose_size(layers := family.layers(_latent_size(self, kwargs))),
            _factors(prompt, weights, family),
            _blend(source, prompt, local, family, finest),
        )
        if not injection.alignment.changes and not weights:
            raise ValueError(f"the prompts are equal ({prompt!r}): change a word, or give weights")
        negative, on_step = kwargs.pop("negative_prompt", None), kwargs.pop("callback_on_step_end", None)
        with injection.installed(layers, family.attention_modules()):
            output = self(
                [source] * n + [prompt] * n,
                negative_prompt=[negative] * 2 * n if isinstance(negative, str) else negative,
                generator=[torch.Generator().manual_seed(s) for s in seeds * 2],
                callback_on_step_end=_step_end(injection, on_step),
                **kwargs,
            )
        return EditOutput(output.images[n:], output.images[:n], injection.alignment.changes)


def _step_end(injection: Injection, then: Any) -> Any:
    """What the pipeline calls after every step: counts it, blends the latents, and calls the user's own function."""

    def step_end(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        injection.fraction = (index + 1) / pipe.num_timesteps
        if injection.blend is not None:
            sources, edits = tensors["latents"].chunk(2)
            tensors["latents"] = torch.cat([sources, injection.blend(sources, edits)])
        return tensors if then is None else then(pipe, index, timestep, tensors)

    return step_end


def _unet_family(pipe: Any) -> UNetFamily:
    family = family_of(pipe)
    if not isinstance(family, UNetFamily) or family.tokenizer is None:
        raise ValueError(
            f"{type(pipe).__name__} cannot edit: editing needs a pipeline of Stable Diffusion 1.x, 2.x or XL with its "
            "tokenizer and UNet"
        )
    return family


def _seeds(seed: Any) -> list[int]:
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if not seeds or not all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**63 for s in seeds):
        raise ValueError(f"seed must be a whole number from 0 on, or a list of them, got {seed!r}")
    return seeds


def _check(source: Any, prompt: Any, cross: float, self_attention: float, kwargs: Mapping[str, Any]) -> None:
    for name, text in (("source", source), ("prompt", prompt)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a prompt with at least one word, got {text!r}")
    for name, fraction in (("cross", cross), ("self_attention", self_attention)):
        if not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
            raise ValueError(f"{name} must be a fraction of the steps from 0 to 1, got {fraction!r}")
    for name in kwargs:
        if name in NOT_TAKEN:
            raise ValueError(f"edit takes no {name!r}: it comes from the two prompts and the seed, or does not apply")
    for name in ("height", "width"):
        size = kwargs.get(name)
        if size is not None and (not isinstance(size, int) or size <= 0 or size % 8):
            raise ValueError(f"{name} must be a positive multiple of 8, got {size!r}")


def _latent_size(pipe: Any, kwargs: Mapping[str, Any]) -> tuple[int, int]:
    default = pipe.unet.config.sample_size
    default = (default, default) if isinstance(default, int) else tuple(default)
    given = (kwargs.get("height"), kwargs.get("width"))
    return tuple(d if g is None else g // pipe.vae_scale_factor for g, d in zip(given, default, strict=True))


def _word_positions(prompt: str, word: str, family: UNetFamily) -> tuple[int, ...]:
    """The token positions of a word or phrase wherever it stands in the prompt as whole words."""
    tokens, found, wanted = tokenize(family.tokenizer, prompt), [], word.strip().lower()
    text, start = prompt.lower(), prompt.lower().find(wanted)
    while wanted and start >= 0:
        end = start + len(wanted)
        if not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()):
            found += tokens.token_indices((start, end))
        start = text.find(wanted, end)
    return tuple(found)


def _factors(prompt: str, weights: Mapping[str, float] | None, family: UNetFamily) -> Tensor | None:
    if not weights:
        return None
    factors = torch.ones(family.text_length)
    for word, factor in weights.items():
        if not isinstance(factor, int | float) or not 0 <= factor < float("inf"):
            raise ValueError(f"the weight of {word!r} must be a number from 0 on, got {factor!r}")
        positions = _word_positions(prompt, word, family)
        if not positions:
            raise ValueError(f"weights: {word!r} is no word of {prompt!r}")
        factors[list(positions)] = float(factor)
    return factors


def _blend(
    source: str, prompt: str, local: str | Sequence[str], family: UNetFamily, size: tuple[int, int]
) -> LocalBlend | None:
    words = [local] if isinstance(local, str) else list(local)
    if not words:
        return None
    found = [[_word_positions(text, word, family) for word in words] for text in (source, prompt)]
    for word, old, new in zip(words, *found, strict=True):
        if not old and not new:
            raise ValueError(f"local: {word!r} is no word of {source!r} or {prompt!r}")
    return LocalBlend(*(tuple(p for positions in words for p in positions) for words in found), size)
