"""The guided forward: attention maps of some images of a denoiser call, differentiable with respect to the latents."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from weakref import WeakKeyDictionary

import torch
from diffusers.utils import USE_PEFT_BACKEND, scale_lora_layers, unscale_lora_layers
from torch import Tensor, nn

from attncontrol.attention.capture import Capture, ForwardTruncated, plain_attention
from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap, index_tensor
from attncontrol.families import INSTEAD
from attncontrol.families.base import Call, Family


class GuidedPass:
    """Repeats one denoiser call for its conditional rows, up to the last wanted attention layer.

    `call` holds the denoiser's arguments by name, `layers` are the layers to capture, `prompts` is the number of
    prompts of the run. Latents are those the model sees, after the scheduler's input scaling; `start` are the present
    ones, [images, ...]. They, their gradients and the maps are float32 whatever the model's dtype.
    """

    def __init__(
        self, family: Family, call: Call, layers: Sequence[Layer], low_memory: bool = False, prompts: int = 1
    ) -> None:
        self.family, self.call, self.layers, self.low_memory = family, call, layers, low_memory
        latents = family.latents(call)
        self.batch = latents.shape[0]
        self.copies, conditional = family.batch_layout(call, prompts)
        self.images = self.batch // self.copies
        self.first_row = conditional * self.images
        self.dtype = latents.dtype
        # a copy made outside inference mode can take part in autograd
        self.start = latents[self.first_row : self.first_row + self.images].clone().float()

    def check_copies(self) -> None:
        """Raises ValueError if the batch is not made of equal copies of the latents, as the family says."""
        batch = self.family.latents(self.call).float()
        expected = torch.cat([self.start] * self.copies)
        if expected.shape != batch.shape or not torch.allclose(expected, batch, rtol=0, atol=0, equal_nan=True):
            raise ValueError(
                f"{type(self.family.pipe).__name__} calls its denoiser with a batch of {self.batch} that is not "
                f"{self.copies} copies of the same latents, so its conditional rows cannot be told: "
                f"attncontrol cannot control this pipeline. {INSTEAD}"
            )

    @contextmanager
    def run(self, latents: Tensor, rows: Sequence[int]) -> Iterator[tuple[Tensor, list[AttentionMaps]]]:
        """Runs the images `rows` at `latents` [images, ...]; gives a leaf of their latents and the maps of each.

        Inside the context the maps can be differentiated with respect to the leaf (unless autograd is off). Passes
        of other threads over the same denoiser wait.
        """
        leaf = latents[index_tensor(rows, latents.device)].detach().requires_grad_(torch.is_grad_enabled())
        call = self.family.rows(self.call, self.batch, [self.first_row + row for row in rows])
        call = self.family.with_latents(call, leaf.to(self.dtype))
        capture = self.family.capture(call, self.layers)
        denoiser = self.family.denoiser
        scaled = _scaled_lora(denoiser, call, self.family.lora_argument)
        with (
            _lock(denoiser),
            _frozen(denoiser),
            self._checkpointing(),
            self._unperturbed(),
            scaled,
            capture.installed(),
        ):
            with suppress(ForwardTruncated), _lasting_weights(denoiser):
                self.family.run(call)
            yield leaf, self._maps(capture, len(rows))

    @contextmanager
    def _unperturbed(self) -> Iterator[None]:
        """Plain attention where perturbed-attention guidance would treat the copies of a batch differently."""
        layers = [self.family.denoiser.get_submodule(name) for name in self.family.perturbed_layers()]
        with plain_attention(layers, self.family.plain_processor):
            yield

    def _maps(self, capture: Capture, images: int) -> list[AttentionMaps]:
        layers = {layer.name: layer for layer in self.layers}
        missing = layers.keys() - capture.maps.keys()
        if missing:
            raise RuntimeError(f"the denoiser never ran the attention layers {', '.join(sorted(missing))}")
        return [
            AttentionMaps(tuple(LayerMap(layers[name], maps[i]) for name, maps in capture.maps.items()))
            for i in range(images)
        ]

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """In low-memory mode, activations between blocks are recomputed in the backward pass instead of kept."""
        denoiser = self.family.denoiser
        if not self.low_memory or denoiser.is_gradient_checkpointing:
            yield
            return
        self.family.check_checkpointing(self.layers)
        denoiser.enable_gradient_checkpointing()
        try:
            yield
        finally:
            denoiser.disable_gradient_checkpointing()


_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


def _lock(module: nn.Module) -> threading.RLock:
    """One lock a denoiser: a guided pass changes it, and several pipelines in several threads may share it."""
    return _locks.setdefault(module, threading.RLock())


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of the module asks for gradients inside; their flags come back on any exit."""
    trainable = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    try:
        module.requires_grad_(False)
        yield
    finally:
        # by name: sequential offloading makes new parameter objects in every forward
        for name, parameter in module.named_parameters():
            if name in trainable:
                parameter.requires_grad_(True)


@contextmanager
def _scaled_lora(module: nn.Module, call: Call, argument: str | None) -> Iterator[None]:
    """The LoRA scale a call asks for, taken out of it, holds inside: diffusers' own ends with the forward.

    Checkpointed blocks run again in the backward pass.
    """
    arguments = dict(call.get(argument) or {})
    scale = arguments.pop("scale", 1.0)
    if not USE_PEFT_BACKEND or scale == 1.0:
        yield
        return
    call[argument] = arguments
    scale_lora_layers(module, scale)
    try:
        yield
    finally:
        unscale_lora_layers(module, scale)


@contextmanager
def _lasting_weights(module: nn.Module) -> Iterator[None]:
    """The backward pass sees the weights as the forward inside saw them.

    Group offloading and layerwise casting load or cast a parameter's data for the forward of its layer only; the
    graph would hold the parameter and find its other data. It is given an alias of what the forward used.
    """
    if not any(hasattr(part, "_diffusers_hook") for part in module.modules()):
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda tensor: tensor):
        yield
