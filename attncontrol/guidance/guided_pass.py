"""The guided forward: attention maps of some images of a denoiser call, differentiable with respect to the latents."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers.utils import USE_PEFT_BACKEND, scale_lora_layers, unscale_lora_layers
from torch import Tensor, nn

from attncontrol.attention.capture import Capture, ForwardTruncated, plain_attention, truncate, without_gradients
from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap, index_tensor
from attncontrol.families import INSTEAD
from attncontrol.families.base import Call, Family, map_tensors
from attncontrol.families.compiled import uncompiled
from attncontrol.families.parts import Parts


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
        self.prompts = prompts
        latents = family.latents(call)
        self.batch = latents.shape[0]
        self.copies, self.conditional = family.batch_layout(call, prompts)
        self.images = self.batch // self.copies
        self.first_row = self.conditional * self.images
        self.dtype = latents.dtype
        # a copy made outside inference mode can take part in autograd
        self.start = latents[self.first_row : self.first_row + self.images].clone().float()
        # perturbed-attention guidance would treat the copies of a batch differently there
        self._perturbed = [family.denoiser.get_submodule(name) for name in family.perturbed_layers()]
        self.output: Any = None  # the denoiser's, of a whole pass
        # what the first pass of a step finds out and later ones use
        self._chosen: tuple[list[int], Call, float] | None = None
        self._captured: Capture | None = None

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

    def is_call_of(self, rows: Sequence[int]) -> bool:
        """Whether a whole pass of these images at the present latents says what the denoiser's call would of them."""
        return not (self._perturbed or self.low_memory) and list(rows) == list(range(self.images))

    def whole_output(self, latents: Tensor) -> Any:
        """What the denoiser's call gives at latents [images, ...] after a whole pass there; None without one.

        Its rows beside the conditional ones, if there are any, run now.
        """
        own = range(self.first_row, self.first_row + self.images)
        others = [row for row in range(self.batch) if row not in own]
        if self.output is None or not others:
            return self.output
        call = self.family.rows(self.call, self.batch, others)
        call = self.family.with_latents(call, torch.cat([latents] * (self.copies - 1)).to(self.dtype))
        with _lock(self.family.denoiser), torch.no_grad():
            output = self.family.run(call)
        order = index_tensor(sorted(range(self.batch), key=[*own, *others].__getitem__), self.start.device)
        return _joined(self.output, output, order)

    @contextmanager
    def run(self, latents: Tensor, rows: Sequence[int], whole: bool = False) -> Iterator[tuple[Tensor, AttentionMaps]]:
        """Runs some images up to the last captured layer, or to the end, where `output` is what the denoiser gives.

        Inside the context the maps can be differentiated with respect to the leaf (unless autograd is off). Passes of
        other threads over the same denoiser wait.

        Args:
            latents: [images, ...].
            rows: Which of the images of the batch they are.
            whole: Whether it goes on behind the last captured layer, without gradients.

        Yields:
            A leaf of their latents, and their maps.
        """
        leaf = latents[index_tensor(rows, latents.device)].detach().requires_grad_(torch.is_grad_enabled())
        call, scale = self._arguments(rows)
        call = self.family.with_latents(call, leaf.to(self.dtype))
        parts, capture = self.family.parts, self._capture(call)
        capture.at_end = without_gradients if whole else truncate
        with (
            _lock(self.family.denoiser),
            uncompiled() if parts.is_compiled else nullcontext(),
            _frozen(parts),
            self._checkpointing(parts),
            plain_attention(self._perturbed, self.family.plain_processor),
            _scaled(parts, scale),
            capture.installed(),
        ):
            with suppress(ForwardTruncated), _lasting_weights(parts), torch.set_grad_enabled(leaf.requires_grad):
                self.output = self.family.run(call)
            yield leaf, self._maps(capture)

    def _arguments(self, rows: Sequence[int]) -> tuple[Call, float]:
        """The call for these images and its LoRA scale, taken out of it; made once for passes of the same images."""
        if self._chosen is None or self._chosen[0] != list(rows):
            call = self.family.rows(self.call, self.batch, [self.first_row + row for row in rows])
            scale, argument = 1.0, self.family.lora_argument
            if call.get(argument) and USE_PEFT_BACKEND:
                scale = call[argument].pop("scale", 1.0)
            self._chosen, self._captured = (list(rows), call, scale), None
        _, call, scale = self._chosen
        # denoisers take things out of the lists and dicts they are given
        return {name: map_tensors(value, _unchanged) for name, value in call.items()}, scale

    def _capture(self, call: Call) -> Capture:
        if self._captured is None:
            self._captured = self.family.capture(call, self.layers)
        return self._captured

    def _maps(self, capture: Capture) -> AttentionMaps:
        layers = {layer.name: layer for layer in self.layers}
        missing = layers.keys() - capture.maps.keys()
        if missing:
            raise RuntimeError(f"the denoiser never ran the attention layers {', '.join(sorted(missing))}")
        return AttentionMaps(tuple(LayerMap(layers[name], maps) for name, maps in capture.maps.items()))

    @contextmanager
    def _checkpointing(self, parts: Parts) -> Iterator[None]:
        """In low-memory mode, activations between blocks are recomputed in the backward pass instead of kept."""
        blocks = parts.checkpointed
        if not self.low_memory or any(block.gradient_checkpointing for block in blocks):
            yield
            return
        self.family.check_checkpointing(self.layers)
        if any(getattr(block, "_gradient_checkpointing_func", None) is None for block in blocks):
            self.family.denoiser.enable_gradient_checkpointing()  # gives them one
        try:
            for block in blocks:
                block.gradient_checkpointing = True
            yield
        finally:
            for block in blocks:
                block.gradient_checkpointing = False


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _joined(first: Any, second: Any, order: Tensor) -> Any:
    """Two outputs of a denoiser as one, whose rows are these of both together."""
    if isinstance(first, Tensor):
        return torch.cat([first, second])[order]
    if isinstance(first, list):  # of rows
        return [[*first, *second][row] for row in order.tolist()]
    if isinstance(first, dict):  # diffusers' outputs are
        return type(first)(**{name: _joined(value, second[name], order) for name, value in first.items()})
    return tuple(_joined(*pair, order) for pair in zip(first, second, strict=True))


_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


def _lock(module: nn.Module) -> threading.RLock:
    """One lock a denoiser: a guided pass changes it, and several pipelines in several threads may share it."""
    return _locks.setdefault(module, threading.RLock())


@contextmanager
def _frozen(parts: Parts) -> Iterator[None]:
    """No parameter of the denoiser asks for gradients inside; their flags come back on any exit.

    Not for a whole run: compiled code that was made for the other flags would be compiled again.
    """
    trainable = [(own, name) for own, name in parts.parameters if own[name].requires_grad]
    try:
        for own, name in trainable:
            own[name].requires_grad = False
        yield
    finally:
        # by name: sequential offloading makes new parameter objects in every forward
        for own, name in trainable:
            own[name].requires_grad = True


@contextmanager
def _scaled(parts: Parts, scale: float) -> Iterator[None]:
    """The LoRA scale of a call holds inside: diffusers' own ends with the forward.

    Checkpointed blocks run again in the backward pass.
    """
    if scale == 1.0:
        yield
        return
    scale_lora_layers(parts.adapters, scale)
    try:
        yield
    finally:
        unscale_lora_layers(parts.adapters, scale)


@contextmanager
def _lasting_weights(parts: Parts) -> Iterator[None]:
    """The backward pass sees the weights as the forward inside saw them.

    Group offloading and layerwise casting load or cast a parameter's data for the forward of its layer only; the
    graph would hold the parameter and find its other data. It is given an alias of what the forward used.
    """
    if not parts.moves_weights:
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda tensor: tensor):
        yield
