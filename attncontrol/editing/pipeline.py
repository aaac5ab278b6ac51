"""What an `AttentionControlPipeline` can do with pictures and two prompts: `edit`, `invert`, `reconstruct`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from attncontrol.attention.layers import choose_size
from attncontrol.editing import arguments
from attncontrol.editing.alignment import Change, align_prompts
from attncontrol.editing.blend import LocalBlend
from attncontrol.editing.dynamic_prompt_learning import DynamicPromptLearning
from attncontrol.editing.injection import Injection, observed
from attncontrol.editing.inversion import Inversion, InversionMethod
from attncontrol.editing.inverting import Inverter, OnStep, Request, find_nouns
from attncontrol.editing.maps import StepMaps
from attncontrol.editing.null_text import NullText
from attncontrol.editing.pictures import read_picture
from attncontrol.editing.published import (
    CROSS_STEPS,
    SELF_STEPS,
    PublishedBlend,
    PublishedInjection,
    is_swap,
    last_layer,
    published_alignment,
)
from attncontrol.editing.replay import replaying, step_states
from attncontrol.families.compiled import uncompiled
from attncontrol.families.unet import UNetFamily
from attncontrol.prompt.align import tokenize


@dataclass
class EditOutput(BaseOutput):
    """Result of an edit: the edited `images`, the `sources` they came from, and the `changes` between the prompts.

    `maps` [2, images, steps, positions, height, width] are the cross-attention of sources and edits, if wanted.
    """

    images: Any
    sources: Any
    changes: tuple[Change, ...]
    maps: Tensor | None = None


class EditingMixin:
    """Editing for pipelines around a Stable Diffusion UNet."""

    @torch.no_grad()
    def edit(
        self,
        source: str | Inversion,
        prompt: str,
        *,
        seed: int | Sequence[int] | None = None,
        cross: float | None = None,
        self_attention: float | None = None,
        local: str | Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        record_maps: bool = False,
        variant: Literal["default", "reference"] = "default",
        parser: Any = None,
        **kwargs: Any,
    ) -> EditOutput:
        """Changes words of a prompt and keeps the rest of the picture (prompt-to-prompt).

        Source and edit start from the same noise and run as one batch; words that are in both prompts, and what takes
        the place of a replaced word, look where the source's words look.

            pipe.edit("a red car and a cat", "a blue car and a cat", seed=3).images[0]
            pipe.edit(pipe.invert(photo, "a red car and a cat"), "a blue car and a cat").images[0]

        Args:
            source: Prompt of the image to edit, or the inversion of a picture.
            prompt: What it should show instead.
            seed: Of the noise, 0 by default; several for a batch of images. An inversion has its own noise.
            cross: Fraction of the steps, from the first, in which cross-attention is taken over; 0.8 by default.
            self_attention: The same for self-attention, 0.4 by default; more keeps more of the source's shapes.
            local: Words of either prompt; the image changes only where they look.
            weights: Factors for the attention of words of `prompt`, as in {"big": 3.0}.
            record_maps: Whether to keep where every position of the prompts is looked at, for `maps` of the result.
            variant: "reference" for prompt-to-prompt as the published code of Dynamic Prompt Learning has it.
            parser: As in a call of the pipeline.
            **kwargs: Other arguments of the pipeline, such as num_inference_steps, guidance_scale, height, width,
                which an inversion has itself.

        Returns:
            The edited images and their sources.

        Raises:
            ValueError: If the prompts do not differ, a word is not in them, or a value cannot be used.
        """
        family = arguments.unet_family(self)
        arguments.check_edit(source, prompt, cross, self_attention, variant, kwargs)
        kwargs, n = _noise(self, family, source, prompt, seed, kwargs)
        before = source.prompt if isinstance(source, Inversion) else source
        layers = family.layers(arguments.latent_size(self, kwargs))
        build = _injection if variant == "default" else _published_injection
        steps = kwargs.get("num_inference_steps", 50)
        with arguments.argument("local"):
            words = arguments.read_local(before, prompt, local, family)
        with arguments.argument("weights"):
            factors = arguments.read_factors(prompt, weights, family)
        injection = build(family, before, prompt, n, (cross, self_attention), words, factors, layers, steps, parser)
        if not injection.alignment.changes and not weights:
            raise ValueError(f"the prompts are equal ({prompt!r}): change a word, or give weights")
        injection.maps = StepMaps(injection.finest) if record_maps else None
        negative, on_step = kwargs.pop("negative_prompt", None), kwargs.pop("callback_on_step_end", None)
        compiled = uncompiled() if family.parts.is_compiled else nullcontext()
        replay = nullcontext()
        if isinstance(source, Inversion):
            replay = replaying(family.denoiser, step_states(family, source, [before, prompt]))
        with compiled, replay, observed(injection, layers, family.attention_modules()):
            output = self(
                [before] * n + [prompt] * n,
                negative_prompt=[negative] * 2 * n if isinstance(negative, str) else negative,
                callback_on_step_end=_step_end(injection, on_step),
                **kwargs,
            )
        maps = None if injection.maps is None else injection.maps.result()
        return EditOutput(output.images[n:], output.images[:n], injection.alignment.changes, maps)

    def invert(
        self,
        image: Any,
        prompt: str | Sequence[str],
        method: InversionMethod = "null-text",
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        height: int | None = None,
        width: int | None = None,
        nouns: Sequence[Any] | None = None,
        background: Any = "auto",
        learning: DynamicPromptLearning | None = None,
        null_text: NullText | None = None,
        path: str | Path | Sequence[str | Path] | None = None,
        memory: Literal["fast", "low"] = "fast",
        parser: Any = None,
        on_step: OnStep | None = None,
    ) -> Any:
        """Finds the noise, and the text, from which guided sampling draws a picture of yours.

            inversion = pipe.invert("photo.png", "a cat and a dog", method="dpl", path="photo.inversion")
            pipe.edit(inversion, "a lion and a dog").images[0]

        Args:
            image: A PIL image, a path, or an array [height, width, channels] of bytes or of floats in 0..1; its middle
                is scaled to the size. A list of images with a list of prompts makes a list of inversions.
            prompt: What the picture shows; it should name what is to be changed.
            method: "ddim" is quick and comes back inexactly under guidance; "null-text" learns unconditional text
                states for every step; "dpl" (Dynamic Prompt Learning) learns the nouns as well.
            num_inference_steps: Of sampling.
            guidance_scale: Of sampling; inversion itself is not guided.
            height: In pixels, the model's by default.
            width: Likewise.
            nouns: Words that "dpl" learns; those of the prompt by default.
            background: Where none of the nouns is, for "dpl": "auto" looks for it in the self-attention, a mask
                [height, width] says it (not 0), None goes without.
            learning: Settings of "dpl".
            null_text: Settings of "null-text" and "dpl".
            path: File that every step is saved to. If an earlier call stopped, this one goes on from there. One a
                picture.
            memory: "low" trades time for memory.
            parser: As in a call of the pipeline.
            on_step: Told the steps done, and how many there are, first of the inversion and then of learning.

        Returns:
            The inversion; for a list of images a list.

        Raises:
            ValueError: If the image, the prompt, the scheduler or a value cannot be used, or numbers stop being
                finite.
            TypeError: If the image is none.
        """
        family = arguments.unet_family(self)
        if isinstance(image, list | tuple):
            each = arguments.batch_of(image, prompt, path)
            common = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
            common |= {"height": height, "width": width, "nouns": nouns, "background": background}
            common |= {"learning": learning, "null_text": null_text, "memory": memory, "parser": parser}
            return [self.invert(i, p, method, path=f, on_step=on_step, **common) for i, p, f in each]
        size = arguments.check_invert(self, family, prompt, method, num_inference_steps, guidance_scale, height, width)
        if memory not in ("fast", "low"):
            raise ValueError(f"memory must be 'fast' or 'low', not {memory!r}")
        request = Request(
            picture=read_picture(image, size),
            prompt=str(prompt),
            method=method,
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            nouns=find_nouns(family, str(prompt), nouns, parser) if method == "dpl" else [],
            learning=learning or DynamicPromptLearning(),
            null_text=null_text or NullText(),
            background=arguments.check_background(background),
            path=None if path is None else Path(str(path)),
            low_memory=memory == "low",
            on_step=on_step or _no_one,
        )
        return Inverter(family, request).run()

    @torch.no_grad()
    def reconstruct(self, inversion: Inversion, **kwargs: Any) -> Any:
        """Draws the picture of an inversion again, with guidance.

        Args:
            inversion: From `invert` or `Inversion.load`.
            **kwargs: Other arguments of the pipeline, such as output_type.

        Returns:
            What the pipeline returns; `images` has one.

        Raises:
            ValueError: If the inversion is of another model or scheduler, or unfinished.
        """
        family = arguments.unet_family(self)
        arguments.check_replay(inversion, kwargs)
        inversion.check(family)
        with replaying(family.denoiser, step_states(family, inversion, [inversion.prompt])):
            return self(inversion.prompt, **_replay_arguments(family, inversion, 1), **kwargs)


def _no_one(done: int, total: int) -> None:
    """Nobody is told."""


def _noise(
    pipe: Any, family: UNetFamily, source: Any, prompt: str, seed: Any, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """The call's arguments with the noise of source and edit, and the number of images."""
    if not isinstance(source, Inversion):
        seeds = arguments.read_seeds(0 if seed is None else seed)
        return {**kwargs, "generator": [torch.Generator().manual_seed(s) for s in seeds * 2]}, len(seeds)
    if seed is not None:
        raise ValueError("an inversion has its own noise: leave seed out")
    source.check(family)
    return {**_replay_arguments(family, source, 2), **kwargs}, 1


def _replay_arguments(family: UNetFamily, inversion: Inversion, rows: int) -> dict[str, Any]:
    latents = inversion.latents[-1:].repeat(rows, 1, 1, 1).to(family.denoiser.device, family.denoiser.dtype)
    return {
        "latents": latents,
        "num_inference_steps": inversion.steps,
        "guidance_scale": inversion.guidance_scale,
        "height": inversion.size[0],
        "width": inversion.size[1],
    }


def _injection(
    family: UNetFamily, source: str, prompt: str, n: int, windows: tuple[float | None, float | None],
    words: Any, factors: Tensor | None, layers: list[Any], steps: int, parser: Any,
) -> Injection:  # fmt: skip
    cross, self_attention = windows
    size = choose_size(layers)
    return Injection(
        align_prompts(source, prompt, family.tokenizer, family.text_length, parser),
        n,
        0.8 if cross is None else cross,
        0.4 if self_attention is None else self_attention,
        size,
        factors,
        LocalBlend(*words, size) if words else None,
    )


def _published_injection(
    family: UNetFamily, source: str, prompt: str, n: int, windows: tuple[float | None, float | None],
    words: Any, factors: Tensor | None, layers: list[Any], steps: int, parser: Any,
) -> Injection:  # fmt: skip
    if n > 1:
        raise ValueError("variant 'reference' edits one image at a time, as published: give one seed")
    found = align_prompts(source, prompt, family.tokenizer, family.text_length, parser)
    ids = [tokenize(family.tokenizer, text).pieces for text in (source, prompt)]
    alignment = published_alignment(*map(list, ids), family.text_length, is_swap(source.split(), prompt.split()))
    blend: Any = None
    if words:
        positions = [p for one in words for p in one[:1]]
        if len(words[1]) != 1 and len(words[0]) != 1:
            raise ValueError("variant 'reference' blends by one word of one token, as published")
        blend = PublishedBlend(positions[-1], choose_size(layers))
    cross, self_attention = (
        min(1.0, published / steps) if given is None else given
        for given, published in zip(windows, (CROSS_STEPS, SELF_STEPS), strict=True)
    )
    return PublishedInjection(
        type(alignment)(found.changes, alignment.matrix, alignment.weights),
        n,
        cross,
        self_attention,
        choose_size(layers),
        factors,
        blend,
        last=last_layer(layers),
        steps=steps,
    )


def _step_end(injection: Injection, then: Callable[..., Any] | None) -> Callable[..., Any]:
    """What the pipeline calls after every step: counts it, blends the latents, and calls the user's own function."""

    def step_end(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        injection.fraction = (index + 1) / pipe.num_timesteps
        if injection.maps is not None:
            injection.maps.end_step()
        if injection.blend is not None:
            sources, edits = tensors["latents"].chunk(2)
            tensors["latents"] = torch.cat([sources, injection.blend(sources, edits)])
        return tensors if then is None else then(pipe, index, timestep, tensors)

    return step_end
