"""What an `AttentionControlPipeline` of FLUX can do with a scene and a new thing: `insert`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from attncontrol.editing.pictures import read_picture, to_pixels
from attncontrol.families.compiled import uncompiled
from attncontrol.insertion import arguments
from attncontrol.insertion.extended_attention import ExtendedAttention
from attncontrol.insertion.flow import Flow, Text, sigmas_of
from attncontrol.insertion.inserting import Inserted, Inserter, Scene
from attncontrol.insertion.masks import Segmenter, segmented
from attncontrol.insertion.settings import AddIt

OnStep = Callable[[int, int], None]


@dataclass
class InsertOutput(BaseOutput):
    """Result of an insertion.

    `images` with the new thing and the `sources` without, one each; the `prompt` of the first; the weight `gamma` of
    the new image's own keys; `mask`, [height, width] in tokens, is 1 where the new image is its own since the last
    blend and 0 where it is the source's, None if there was no blend.
    """

    images: Any
    sources: Any
    prompt: str
    gamma: float
    mask: Tensor | None


class InsertionMixin:
    """Insertion for pipelines around a FLUX.1 transformer."""

    @torch.no_grad()
    def insert(
        self,
        source: Any,
        thing: str,
        *,
        prompt: str | None = None,
        prompt_target: str | None = None,
        seed: int = 0,
        seed_target: int | None = None,
        settings: AddIt | Mapping[str, Any] | None = None,
        segmenter: Segmenter | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        max_sequence_length: int | None = None,
        output_type: Literal["pil", "latent"] = "pil",
        on_step: OnStep | None = None,
    ) -> InsertOutput:
        """Puts a new thing into a scene, drawn or a picture of yours, and keeps the rest (Add-it, docs/editing.md).

            pipe.insert("a red car", "a cat", seed=3).images[0]
            pipe.insert(photo, "a cat", prompt="a red car").images[0]

        Args:
            source: Prompt of a scene to draw; or, with `prompt`, a picture: a PIL image, a path, or an array [height,
                width, channels] of bytes or of floats in 0..1, whose middle is scaled to the size.
            thing: What to insert, as "a cat".
            prompt: What the picture shows.
            prompt_target: What the new image shows; it names the thing, too. By default "PROMPT and THING".
            seed: Of the scene's noise.
            seed_target: Of the new image's noise, the same by default; another one draws the thing otherwise.
            settings: An `AddIt`, or some of its settings over those tuned for the checkpoint.
            segmenter: Outlines the thing where attention points (docs/editing.md); attention alone by default.
            num_inference_steps: The checkpoint's own by default, else 30.
            guidance_scale: Likewise, else 3.5; while a picture is inverted it is 1.
            height: In pixels, the model's by default.
            width: Likewise.
            max_sequence_length: Of the text, the checkpoint's own by default, else 512.
            output_type: "pil" or "latent".
            on_step: Told the model's calls done, and how many there are at least.

        Returns:
            The new image, the scene, and what decided between them.

        Raises:
            ValueError: If the pipeline, a prompt, the picture or a value cannot be used, or numbers stop being finite.
            TypeError: If the source is no prompt and no picture, or the settings are none.
        """
        pipe: Any = self
        family = arguments.flux_family(pipe)
        image, before = arguments.read_source(source, prompt)
        after = arguments.read_target(before, thing, prompt_target)
        seeds = arguments.read_seeds(seed, seed_target)
        call = arguments.read_call(pipe, {
            "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "height": height,
            "width": width, "max_sequence_length": max_sequence_length,
        })  # fmt: skip
        if output_type not in ("pil", "latent"):
            raise ValueError(f"output_type must be 'pil' or 'latent', not {output_type!r}")
        chosen = arguments.read_settings(pipe, settings, image is not None)
        arguments.check_model(family, (before, after), call["max_sequence_length"])
        picture = None if image is None else read_picture(image, (call["height"], call["width"]))
        tokens = arguments.subject_positions(family, thing, after, chosen.variant == "reference")
        compiled = uncompiled() if family.parts.is_compiled else nullcontext()
        with compiled:
            run = _Run(pipe, family, call, chosen, (before, after), picture is not None)
            found = run.insert(picture, seeds, tokens, segmenter, on_step)
        images, sources = (run.decode(latents, output_type) for latents in (found.target, found.source))
        pipe.maybe_free_model_hooks()
        return InsertOutput(images, sources, after, found.gamma, found.mask)


class _Run:
    """One insertion with a stock pipeline's parts: noise, text, pictures, and the steps between them."""

    def __init__(
        self, pipe: Any, family: Any, call: Mapping[str, Any], settings: AddIt, prompts: tuple[str, str],
        is_picture: bool,
    ) -> None:  # fmt: skip
        self.pipe, self.family, self.call, self.settings = pipe, family, call, settings
        self.device = pipe._execution_device
        self.size = arguments.token_size(pipe, call)
        before, after = map(self._text, prompts)
        guidance = float(call["guidance_scale"])
        layers = family.layers(self.size)
        self.scene = Scene(
            (before, after),
            (1.0 if is_picture else guidance, guidance),
            self.size,
            layers,
            arguments.map_layers(layers, settings.layers),
        )

    def insert(
        self, picture: Any, seeds: tuple[int, int], tokens: list[int], segmenter: Segmenter | None,
        on_step: OnStep | None,
    ) -> Inserted:  # fmt: skip
        """Source and target latents."""
        noise, ids = self._noise(seeds)
        sigmas = sigmas_of(self.pipe.scheduler, self.call["num_inference_steps"], noise.shape[1]).to(self.device)
        flow = Flow(self.family.denoiser, sigmas, ids)
        text = self.scene.texts[1].states.shape[1]
        attention = ExtendedAttention(self.family.modules, self.family.parts.attention, text, tokens)
        segment = None if segmenter is None else self._segment(segmenter)
        total = self.settings.calls(flow.steps, picture is not None)
        with self.pipe.progress_bar(total=total) as bar, attention.installed():
            advance = _advance(bar, total, on_step)
            inserter = Inserter(flow, attention, self.settings, self.scene, segment, advance)
            if picture is None:
                path = inserter.draw(noise[:1])
                return inserter.insert(path[-1], noise, None if inserter.is_reference else path)
            clean = inserter.settle(self._encode(picture), self._settling_noise(noise))
            return inserter.insert(clean, noise, inserter.invert(clean, noise[:1]))

    def decode(self, latents: Tensor, output_type: str) -> Any:
        """Pictures of packed latents, or these."""
        if output_type == "latent":
            return latents
        pipe, vae = self.pipe, self.pipe.vae
        latents = pipe._unpack_latents(latents, self.call["height"], self.call["width"], pipe.vae_scale_factor)
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        return pipe.image_processor.postprocess(vae.decode(latents.to(vae.dtype), return_dict=False)[0], "pil")

    def _text(self, prompt: str) -> Text:
        length = self.call["max_sequence_length"]
        return Text(*self.pipe.encode_prompt(prompt, None, self.device, 1, max_sequence_length=length))

    def _noise(self, seeds: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Noise of source and target [2, tokens, channels], and the positions of the tokens.

        As published the target's is the second row of a draw of two.
        """
        published = self.settings.variant == "reference"
        drawn = [self._draw(seed, row + 1 if published else 1) for row, seed in enumerate(seeds)]
        return torch.cat([noise[-1:] for noise, _ in drawn]), drawn[0][1]

    def _draw(self, seed: int, rows: int) -> tuple[Tensor, Tensor]:
        config, states = self.family.denoiser.config, self.scene.texts[0].states
        return self.pipe.prepare_latents(
            rows, config.in_channels // 4, self.call["height"], self.call["width"], states.dtype, self.device,
            torch.Generator().manual_seed(seed),
        )  # fmt: skip

    def _settling_noise(self, noise: Tensor) -> Tensor:
        return self._draw(0, 1)[0] if self.settings.variant == "reference" else noise[:1]

    def _encode(self, picture: Any) -> Tensor:
        """A picture's packed latents [1, tokens, channels]."""
        vae = self.pipe.vae
        posterior = vae.encode(to_pixels(picture).to(self.device, vae.dtype)).latent_dist
        if self.settings.variant == "reference":
            latents = posterior.sample(torch.Generator().manual_seed(0))
        else:
            latents = posterior.mode()
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        packed = self.pipe._pack_latents(latents, *latents.shape)
        return packed.to(self.scene.texts[0].states.dtype)

    def _segment(self, segmenter: Segmenter) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def segment(clean: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
            return segmented(segmenter, self.decode(clean, "pil")[0], attention, mask)

        return segment


def _advance(bar: Any, total: int, on_step: OnStep | None) -> Callable[[Tensor, str], None]:
    done = 0

    def advance(latents: Tensor, what: str) -> None:
        nonlocal done  # a bar that is switched off does not count
        done += 1
        bar.update()
        arguments.check_finite(latents, done, total, what)
        if on_step is not None:
            on_step(done, total)

    return advance
