"""The denoiser and the text encoder of a pipeline, asked directly and with gradients to the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor, nn

from attncontrol.attention.capture import ForwardTruncated
from attncontrol.attention.layers import Size, choose_size
from attncontrol.families.unet import UNetFamily


class Network:
    """A Stable Diffusion UNet with a DDIM sampler of its own, for one size of latents.

    Predictions, maps and latents are float32 whatever the model's dtype.

    Args:
        family: Of the pipeline.
        size: (height, width) of the latents.
        steps: Of sampling.
        low_memory: Whether activations are computed again in the backward pass instead of kept.
    """

    def __init__(self, family: UNetFamily, size: Size, steps: int, low_memory: bool = False) -> None:
        self.family, self.unet, self.size, self.low_memory = family, family.denoiser, size, low_memory
        self.sampler = DDIMScheduler.from_config(family.pipe.scheduler.config)
        self.sampler.set_timesteps(steps, device=self.unet.device)
        self.inverter = DDIMInverseScheduler.from_config(family.pipe.scheduler.config, clip_sample=False)
        self.inverter.set_timesteps(steps, device=self.unet.device)
        layers = family.layers(size)
        self.map_size = choose_size(layers)
        self.map_layers = [layer for layer in layers if layer.is_cross and layer.size == self.map_size]

    def predict(self, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        """The UNet's output for latents [rows, channels, height, width] and text states [rows, positions, width]."""
        dtype = self.unet.dtype
        with self._checkpointing():
            output = self.unet(latents.to(dtype), timestep, states.to(dtype), return_dict=False)[0]
        return output.float()

    @contextmanager
    def maps(self, latents: Tensor, timestep: Tensor, states: Tensor) -> Iterator[Tensor]:
        """Cross-attention [height, width, positions] of one image, the mean over heads and layers of `map_size`.

        The forward ends at the last of these layers. Gradients must be taken inside the context: in low-memory mode
        the layers run again for them.
        """
        dtype = self.unet.dtype
        call = {"sample": latents.to(dtype), "timestep": timestep, "encoder_hidden_states": states.to(dtype)}
        capture = self.family.capture(call, self.map_layers)
        with capture.installed():
            with self._checkpointing(), suppress(ForwardTruncated):
                self.unet(**call)
            yield torch.cat([maps[0] for maps in capture.maps.values()]).mean(0).unflatten(0, self.map_size)

    def step(self, output: Tensor, timestep: Tensor, latents: Tensor) -> Tensor:
        """One step of sampling, without noise."""
        return self.sampler.step(output, timestep, latents, return_dict=False)[0]

    def inverse_step(self, output: Tensor, timestep: Tensor, latents: Tensor) -> Tensor:
        """One step of inversion, towards noise; the network is asked at the level it leads to."""
        return self.inverter.step(output, timestep, latents, return_dict=False)[0]

    def _checkpointing(self) -> Any:
        if not self.low_memory or self.unet.is_gradient_checkpointing or not torch.is_grad_enabled():
            return nullcontext()
        return _checkpointed(self.unet)


def guided(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance."""
    return unconditional + scale * (conditional - unconditional)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of the modules asks for gradients inside; their flags come back on any exit."""
    trainable = [p for module in modules for p in module.parameters() if p.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _checkpointed(unet: nn.Module) -> Iterator[None]:
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


@contextmanager
def embedded(text_encoder: nn.Module, positions: Sequence[int], rows: Tensor | None) -> Iterator[None]:
    """Inside, the text encoder's input embeddings at `positions` are `rows` [len(positions), width].

    Their meaning still passes through the encoder, so gradients reach the rows through it.
    """
    if rows is None or not positions:
        yield
        return

    def put_in(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, list(positions)] = rows.to(output)
        return output

    handle = text_encoder.get_input_embeddings().register_forward_hook(put_in)
    try:
        yield
    finally:
        handle.remove()
