"""From a picture to an `Inversion`: DDIM inversion, then step by step what guided sampling needs to come back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from attncontrol.editing.background import AttentionMeans, find_background, half_covered
from attncontrol.editing.dynamic_prompt_learning import DynamicPromptLearning
from attncontrol.editing.injection import observed
from attncontrol.editing.inversion import Inversion, fingerprint, scheduler_config
from attncontrol.editing.network import Network, embedded, frozen, guided
from attncontrol.editing.null_text import NullText
from attncontrol.editing.pictures import picture_hash, to_pixels
from attncontrol.families.unet import UNetFamily
from attncontrol.prompt import structure_of

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """One picture to invert, and how; `background` is "auto", a mask [height, width] or None."""

    picture: Image.Image
    prompt: str
    method: str
    steps: int
    guidance_scale: float
    nouns: list[tuple[str, list[int]]]
    learning: DynamicPromptLearning
    null_text: NullText
    background: Any = "auto"
    path: Path | None = None
    low_memory: bool = False
    on_step: OnStep = lambda done, total: None

    @property
    def settings(self) -> dict[str, Any]:
        """What the method's result depends on, of JSON types."""
        if self.method == "ddim":
            return {}
        used = {"null_text": self.null_text.to_json()}
        return used | {"learning": self.learning.to_json()} if self.method == "dpl" else used


def find_nouns(family: UNetFamily, prompt: str, nouns: Any, parser: Any) -> list[tuple[str, list[int]]]:
    """The nouns to learn with their token positions; those of the prompt unless given. ValueError if there is none."""
    entities = structure_of(prompt, family.tokenizer, nouns, parser).entities
    found = [(entity.noun.text, list(entity.noun.token_indices)) for entity in entities]
    if not found:
        raise ValueError(f"the prompt {prompt!r} names nothing that could be learned: give nouns=[...] as in it")
    return found


class Inverter:
    """Inverts one picture with a pipeline, saving as it goes."""

    def __init__(self, family: UNetFamily, request: Request) -> None:
        self.family, self.request, self.pipe = family, request, family.pipe
        width, height = request.picture.size
        factor = self.pipe.vae_scale_factor
        size = (height // factor, width // factor)
        self.network = Network(family, size, request.steps, request.low_memory)
        self.device = family.denoiser.device

    def run(self) -> Inversion:
        """The finished inversion. Raises ValueError if it comes to numbers that are not finite."""
        with torch.no_grad(), frozen(self.family.denoiser, self.pipe.text_encoder):
            inversion = self._started()
            if not inversion.is_complete:
                self._learn(inversion)
            elif self.request.path is not None and not self.request.path.exists():
                inversion.save(self.request.path)
        return inversion

    def _started(self) -> Inversion:
        """The inversion as far as an earlier run came, or else after DDIM inversion."""
        request = self.request
        inversion = Inversion(
            prompt=request.prompt,
            method=request.method,
            guidance_scale=float(request.guidance_scale),
            size=(request.picture.height, request.picture.width),
            scheduler=scheduler_config(self.family),
            model=fingerprint(self.family),
            settings=request.settings,
            latents=torch.zeros(request.steps + 1, 1, 1, 1),
            image=picture_hash(request.picture),
            nouns=request.nouns if request.method == "dpl" else [],
        )
        if request.path is not None and request.path.exists():
            earlier = Inversion.load(request.path)
            if differing := earlier.goes_on_with(inversion):
                raise ValueError(
                    f"{str(request.path)!r} holds another inversion ({differing}): choose another path or delete it"
                )
            return earlier
        inversion.latents, inversion.background = self._inverted()
        return inversion

    def _inverted(self) -> tuple[Tensor, Tensor | None]:
        """Latents from the picture to noise [steps + 1, channels, height, width], and the background if wanted."""
        request, network, layers = self.request, self.network, self.family.layers(self.network.size)
        wants = request.method == "dpl" and request.learning.background_weight > 0
        find = wants and isinstance(request.background, str)
        means = AttentionMeans(layers, network.map_size)
        states = self._encode(request.prompt)
        path = [self._latents()]
        with observed(means if find else None, layers, self.family.attention_modules()), self._progress() as advance:
            for index, timestep in enumerate(network.inverter.timesteps):
                output = network.predict(path[-1], timestep, states)
                path.append(network.inverse_step(output, timestep, path[-1]))
                self._check(path[-1], index, "inversion")
                advance()
        mask = None
        if find:
            mask = find_background(means, [positions for _, positions in request.nouns])
            if mask is None:
                warnings.warn(
                    "the nouns look everywhere in the picture: it is inverted without background", stacklevel=2
                )
        elif wants and request.background is not None:
            mask = self._read_mask(request.background)
        return torch.cat(path).cpu(), None if mask is None else mask.cpu()

    def _latents(self) -> Tensor:
        """The picture's latents [1, channels, height, width]."""
        vae = self.pipe.vae
        posterior = vae.encode(to_pixels(self.request.picture).to(vae.device, vae.dtype)).latent_dist
        if self.request.null_text.variant == "reference":
            latents = posterior.sample(torch.Generator(vae.device).manual_seed(0))
        else:
            latents = posterior.mode()
        return latents.float() * vae.config.scaling_factor

    def _read_mask(self, given: Any) -> Tensor | None:
        mask = (torch.as_tensor(given) != 0).float().to(self.device)
        if self.request.learning.variant == "reference":  # any share of a cell counts, as bicubic filters spread it
            size = self.network.map_size
            spread = F.interpolate(mask[None, None], size, mode="bicubic", antialias=True)[0, 0]
            return (spread != 0).float()
        return half_covered(mask, self.network.map_size)

    def _learn(self, inversion: Inversion) -> None:
        """The steps that are not done yet, from noise to picture; each is saved."""
        pieces = [p for _, positions in inversion.nouns for p in positions]
        learner = Learner(
            self.network,
            self.request,
            inversion.latents.to(self.device),
            [positions for _, positions in inversion.nouns],
            None if inversion.background is None else inversion.background.to(self.device),
            lambda tokens: self._encode(inversion.prompt, pieces, tokens),
            self._encode(""),
        )
        tokens = self._own_tokens(inversion.prompt, pieces) if pieces else None
        null = learner.empty
        if inversion.losses:  # an earlier run came so far
            tokens = None if inversion.tokens is None else inversion.tokens[-1].to(self.device)
            null = inversion.null[-1:].to(self.device) if inversion.null is not None else null
        latents = inversion.sampled[None].to(self.device) if inversion.sampled is not None else learner.goals[-1:]
        with self._progress(inversion.learned) as advance:
            for index in range(inversion.learned, inversion.steps):
                latents, tokens, null, losses = learner.step(index, latents, tokens, null)
                self._check(latents, index, "learning")
                _append(inversion, latents, tokens, null, losses)
                if self.request.path is not None:
                    inversion.save(self.request.path, overwrite=True)
                advance()

    def _own_tokens(self, prompt: str, pieces: list[int]) -> Tensor:
        """The input embeddings that the text encoder has for the pieces: [pieces, width]."""
        rows: list[Tensor] = []
        embedding = self.pipe.text_encoder.get_input_embeddings()
        handle = embedding.register_forward_hook(lambda module, args, output: rows.append(output[0]))
        try:
            self._encode(prompt)
        finally:
            handle.remove()
        return rows[0][pieces].float()

    def _encode(self, prompt: str, pieces: list[int] | None = None, tokens: Tensor | None = None) -> Tensor:
        """Text states of one prompt, with other input embeddings at some positions: [1, positions, width]."""
        with embedded(self.pipe.text_encoder, pieces or [], tokens):
            return self.pipe.encode_prompt(prompt, self.device, 1, False)[0].float()

    def _check(self, latents: Tensor, index: int, what: str) -> None:
        if torch.isfinite(latents).all():
            return
        path = self.request.path
        kept = f"; the steps before it are kept in {str(path)!r}" if path is not None and path.exists() else ""
        raise ValueError(
            f"the latents are not finite after step {index + 1} of {self.request.steps} of the {what}{kept}. A model "
            "in float16 may overflow: try bfloat16 or float32"
        )

    @contextmanager
    def _progress(self, done: int = 0) -> Iterator[Callable[[], None]]:
        total = self.request.steps
        with self.pipe.progress_bar(total=total) as bar:
            bar.update(done)

            def advance() -> None:
                nonlocal done  # a bar that is switched off does not count
                done += 1
                bar.update()
                self.request.on_step(done, total)

            yield advance


@dataclass(frozen=True)
class Learner:
    """What is learned at the steps of one inversion.

    `goals` [steps + 1, channels, height, width] are the latents of the inversion, `nouns` the token positions of each
    noun, `encode` makes text states [1, positions, width] of input embeddings, `empty` are those of no prompt.
    """

    network: Network
    request: Request
    goals: Tensor
    nouns: list[list[int]]
    background: Tensor | None
    encode: Callable[[Tensor | None], Tensor]
    empty: Tensor

    def step(
        self, index: int, latents: Tensor, tokens: Tensor | None, null: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor, dict[str, Any]]:
        """One step from noise to picture: the latents after it, the nouns, the unconditional states, the losses."""
        network, scale = self.network, self.request.guidance_scale
        looks: list[list[float]] = []
        with torch.enable_grad():
            if tokens is not None:
                tokens, looks = self.request.learning.learn(
                    network, latents, index, self.encode, tokens, self.nouns, self.background
                )
            with torch.no_grad():
                states = self.encode(tokens)
            start = self.empty if self.request.null_text.variant == "reference" else null
            goal = self.goals[-2 - index][None]
            null, errors = self.request.null_text.learn(network, latents, index, states, start, goal, scale)
        with torch.no_grad():
            timestep = network.sampler.timesteps[index]
            both = [network.predict(latents, timestep, s) for s in (null, states)]
            latents = network.step(guided(*both, scale), timestep, latents)
        return latents, tokens, null, {"null": errors, "nouns": looks}


def _append(
    inversion: Inversion, latents: Tensor, tokens: Tensor | None, null: Tensor, losses: dict[str, Any]
) -> None:
    def longer(known: Tensor | None, new: Tensor) -> Tensor:
        new = new.cpu()
        return new if known is None else torch.cat([known, new])

    inversion.null = longer(inversion.null, null)
    if tokens is not None:
        inversion.tokens = longer(inversion.tokens, tokens[None])
    inversion.sampled = latents[0].cpu()
    inversion.losses.append(losses)
