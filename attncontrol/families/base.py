"""What guidance must know of one kind of denoiser and its pipelines. Each family's file says what differs."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import diffusers
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from attncontrol.attention.capture import ForwardCapture
from attncontrol.attention.layers import Layer, Size
from attncontrol.attention.maps import index_tensor
from attncontrol.families.compiled import original
from attncontrol.families.parts import Parts
from attncontrol.guidance.schedulers import keeps_float32
from attncontrol.prompt.text import TextReader

Call = dict[str, Any]
"""The arguments of one denoiser call by name."""


TRANSFORMER_SETTINGS: Mapping[str, Any] = {
    "relative_step": 0.003,
    "stop": 0.64,
    "thresholds": {},
    "refine_at": (),
    "sar": 0.0,
}
"""JEDI's length of a step and window; no refinement, since no thresholds are known (docs/add_a_family.md).

Without self-attention layers there is nothing for Attention Refocusing's second term.
"""
FOCUS_METHODS = frozenset({"focus", "attend-and-excite", "conform"})
"""Methods that FOCUS's published code has for Stable Diffusion 3.5 and FLUX.1 (docs/methods/focus.md)."""


class Family(ABC):
    """A kind of denoiser with its pipelines: where latents, text, copies and attention layers are in a call.

    One is made for every run: modules are looked up once. `called` is the pipeline's denoiser, `denoiser` the module
    that this was compiled from, mostly the same.

    Args:
        pipe: The diffusers pipeline.
    """

    denoisers: ClassVar[tuple[str, ...]]  # names of the diffusers classes
    refused: ClassVar[Mapping[str, str]] = {}  # pipelines around them that cannot be controlled, and why
    component: ClassVar[str] = "transformer"  # the pipeline's name for its denoiser
    latents_argument: ClassVar[str] = "hidden_states"
    shared: ClassVar[frozenset[str]] = frozenset()  # arguments without a row per batch entry, such as position ids
    lora_argument: ClassVar[str | None] = "joint_attention_kwargs"  # where a call's LoRA scale is
    text: ClassVar[tuple[slice, ...]] = (slice(0, -1),)  # of every text encoder, without its start and last position
    plain_processor: ClassVar[type] = AttnProcessor2_0  # of the layers that perturbed-attention guidance changes
    size_multiple: ClassVar[int] = 16  # of an image's height and width in pixels
    references: ClassVar[frozenset[str]] = frozenset()  # methods whose reference here is FOCUS's published code
    defaults: ClassVar[Mapping[str, Any]] = {}  # settings of methods that have no tuned ones
    longest_text: ClassVar[int]  # most text keys of a call, special tokens and padding included

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.called: nn.Module = getattr(pipe, self.component)
        self.denoiser: nn.Module = original(self.called)
        self._signature = inspect.signature(type(self.denoiser).forward)
        self._positional: tuple[str, ...] = ()  # the arguments that the pipeline gives by position

    @functools.cached_property
    def parts(self) -> Parts:
        """The denoiser's modules by what guided passes do with them."""
        return Parts.of(self.called)

    # costs

    @classmethod
    def weightless(cls, config: Mapping[str, Any], dtype: torch.dtype) -> Family:
        """The family of a denoiser of this configuration, on the meta device, to count costs."""
        known = {key: value for key, value in config.items() if not key.startswith("_")}
        with torch.device("meta"):
            denoiser = nn.Module.to(getattr(diffusers, cls.denoisers[0]).from_config(known), dtype).eval()
        parts = dict.fromkeys(("tokenizer", "tokenizer_2", "tokenizer_3", "text_encoder", "vae"))
        return cls(SimpleNamespace(**{cls.component: denoiser}, do_classifier_free_guidance=False, **parts))

    @abstractmethod
    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """Arguments of a denoiser call with empty tensors, to count its cost.

        `text` is the number of text keys, the most there are if absent. Raises ValueError for a denoiser that takes
        other inputs than its family's.
        """

    def empty(self, *shape: int) -> Tensor:
        """A tensor without values on the denoiser's device, of its type."""
        return torch.empty(*shape, device=self.denoiser.device, dtype=self.denoiser.dtype)

    @property
    def plain_calls(self) -> tuple[int, int]:
        """Calls of a step of plain sampling and their rows for an image; 2 in all with classifier-free guidance."""
        return 1, 2

    @classmethod
    def latent_pixels(cls, vae: Mapping[str, Any]) -> int:
        """Pixels of an image on a side of a latent, by the configuration of the autoencoder."""
        return 2 ** (len(vae["block_out_channels"]) - 1)

    @property
    def grid_latents(self) -> int:
        """Latents on a side of an entry of `grid`."""
        return 1

    @property
    def usual_grid(self) -> Size:
        """`grid` of the images that the pipelines draw unless told otherwise."""
        side = self.denoiser.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return height // self.grid_latents, width // self.grid_latents

    # text

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """What finds words among the text keys: a tokenizer or a `TextReader`; None without one."""

    @property
    def tokenizers(self) -> list[Any]:
        """Those whose text encoders share the same positions."""
        return [self.tokenizer] if self.tokenizer is not None else []

    @property
    def drop_padding(self) -> bool:
        """Whether end of text and padding stay out of a softmax over tokens."""
        return True

    @property
    def text_length(self) -> int:
        """Most text positions of a call, special tokens and padding included."""
        return self.tokenizer.model_max_length

    def check_encoding(self, prompts: Sequence[str], arguments: Mapping[str, Any]) -> None:
        """Raises ValueError if a pipeline that calls `encode_prompt` so reads other text than words are sought in."""
        return

    def has_reference(self, method: Any) -> bool:
        """Whether published code of a method controls this kind of denoiser."""
        return not method.moves_after

    # a call

    def bind(self, args: tuple, kwargs: Call) -> Call:
        """All arguments of one denoiser call by name."""
        bound = self._signature.bind(self.denoiser, *args, **kwargs).arguments
        bound.pop("self")
        self._positional = tuple(self._signature.parameters)[1 : len(args) + 1]
        return {**bound.pop("kwargs", {}), **bound}

    def moved(self, args: tuple, kwargs: Call, latents: Tensor) -> tuple[tuple, Call]:
        """The arguments of a call as they came, positional ones positional, with other latents."""
        value = self.with_latents(self.bind(args, kwargs), latents)[self.latents_argument]
        if self.latents_argument in kwargs:
            return args, {**kwargs, self.latents_argument: value}
        place = list(self._signature.parameters).index(self.latents_argument) - 1
        return (*args[:place], value, *args[place + 1 :]), kwargs

    def run(self, call: Call) -> Any:
        """Calls the denoiser, with what the pipeline gave by position by position: hooks of others read it there."""
        named = {name: value for name, value in call.items() if name not in self._positional}
        return self.called(*[call[name] for name in self._positional], **named)

    def latents(self, call: Call) -> Tensor:
        """The noisy latents of a call, [rows, ...], shaped as the scheduler's sample."""
        return call[self.latents_argument]

    def with_latents(self, call: Call, latents: Tensor) -> Call:
        """The call at other latents; what lies beside or behind them stays."""
        return {**call, self.latents_argument: latents}

    def batch_layout(self, call: Call, prompts: int) -> tuple[int, int]:
        """How many copies of the images one call holds, and which of them (from 0) is the conditional one.

        Classifier-free guidance puts an unconditional copy in front, perturbed-attention guidance a perturbed one
        behind. Where the pipeline does not tell, a call holds an unconditional copy if its latents are so many equal
        parts and its rows a multiple of their number times that of the prompts.
        """
        perturbed = int(getattr(self.pipe, "do_perturbed_attention_guidance", False))
        told = getattr(self.pipe, "do_classifier_free_guidance", None)
        if told is None:
            latents, copies = self.latents(call), 2 + perturbed
            told = len(latents) % (copies * prompts) == 0 and all(
                torch.equal(part, latents[: len(part)]) for part in latents.chunk(copies)
            )
        return int(told) + 1 + perturbed, int(told)

    def rows(self, call: Call, batch: int, rows: Sequence[int]) -> Call:
        """The arguments of a denoiser call for some rows of its batch only."""
        index = index_tensor(rows, self.latents(call).device)

        def select(value: Tensor) -> Tensor:
            # outside inference mode a copy is an ordinary tensor, which autograd can save
            if value.ndim == 0 or value.shape[0] != batch:
                return value.clone()
            return value[index if value.device == index.device else index_tensor(rows, value.device)]

        def chosen(name: str, value: Any) -> Any:
            return map_tensors(value, torch.clone if name in self.shared else select)

        return {name: chosen(name, value) for name, value in call.items()}

    def timestep(self, call: Call) -> Tensor:
        """The noise level of a call on the scheduler's scale of 0 to 1000: one number, left on its device."""
        return torch.as_tensor(call["timestep"]).flatten()[0]

    def at_timestep(self, call: Call, timestep: float) -> Call:
        """The call at another noise level, `timestep` as of the method above, in the form that its own has."""
        given = torch.as_tensor(call["timestep"])
        moved = given * (timestep / self.timestep(call).to(given.device))
        return {**call, "timestep": moved if given.is_floating_point() else moved.round().to(given.dtype)}

    def prediction(self, output: Tensor) -> Tensor:
        """What a call gives as the scheduler takes it, but for the guidance scale."""
        return output

    def input_scale(self, scheduler: Any, call: Call, device: torch.device) -> Tensor:
        """The factor from the scheduler's sample to the model's input: float32, one entry."""
        one = torch.ones(1, dtype=torch.float32, device=device)
        if not hasattr(scheduler, "scale_model_input"):
            return one
        return scheduler.scale_model_input(one, self.timestep(call)).float()

    # attention

    @abstractmethod
    def grid(self, call: Call) -> Size:
        """(height, width) that the sizes of layers are worked out from."""

    @abstractmethod
    def layers(self, grid: Size) -> list[Layer]:
        """The attention layers in order of execution, with the size of their maps."""

    def running(self, layers: Sequence[Layer]) -> Sequence[Layer]:
        """Those of the layers that run in the present call."""
        return layers

    @abstractmethod
    def attention_modules(self) -> dict[str, nn.Module]:
        """The modules of all layers by name."""

    @functools.cached_property
    def modules(self) -> dict[str, nn.Module]:
        """`attention_modules`, looked up once."""
        return self.attention_modules()

    def part(self, call: Call, row: int) -> tuple[slice, slice]:
        """Which queries of a layer are the image's in a row, and which keys the text's; here all of a cross-attention.

        Text keys that begin before 0 stand for as many positions without a key.
        """
        return slice(None), slice(None)

    def capture(self, call: Call, layers: Sequence[Layer]) -> Any:
        """What reads the maps of these layers during a forward with this call."""
        parts = [self.part(call, row) for row in range(len(self.latents(call)))]
        return ForwardCapture(self.parts.attention, {layer.name: self.modules[layer.name] for layer in layers}, parts)

    def can_checkpoint(self, layers: Sequence[Layer]) -> bool:
        """Whether `check_checkpointing` raises nothing."""
        try:
            self.check_checkpointing(layers)
        except ValueError:
            return False
        return True

    def check_checkpointing(self, layers: Sequence[Layer]) -> None:
        """Raises ValueError if the maps of these layers would be others in low-memory mode."""
        return

    def perturbed_layers(self) -> list[str]:
        """The attention layers in which perturbed-attention guidance treats the copies of the batch differently."""
        return [name.removesuffix(".processor") for name in getattr(self.pipe, "pag_attn_processors", {})]


class BlockFamily(Family):
    """A transformer whose blocks all attend at one size.

    `stacks` lists the stacks of blocks in order of execution: attribute of the denoiser, place name, the block's
    attention module, and the share of the stack that methods look at by default.
    """

    stacks: ClassVar[tuple[tuple[str, str, str, tuple[float, float]], ...]]

    def has_reference(self, method: Any) -> bool:
        """Only what `references` names, with a scheduler of flow matching."""
        return method.name in self.references and keeps_float32(self.pipe.scheduler)

    def check_encoding(self, prompts: Sequence[str], arguments: Mapping[str, Any]) -> None:
        """Raises ValueError for other prompts of further text encoders and for a length that cuts words off."""
        for name in ("prompt_2", "prompt_3"):
            other = arguments.get(name)
            if other is not None and ([other] if isinstance(other, str) else list(other)) != list(prompts):
                raise ValueError(f"{name} must be left out under control: words are sought in one prompt")
        limit, encoder = arguments.get("max_sequence_length"), self.tokenizer.encoders[-1]
        for prompt in prompts if limit is not None else ():
            needed = encoder.needed(prompt)
            if limit < needed <= encoder.length:
                raise ValueError(f"max_sequence_length={limit} cuts off {prompt!r}, which needs {needed}: raise it")

    def attention_modules(self) -> dict[str, nn.Module]:
        """The attention modules with text keys, by name."""
        return {
            f"{stack}.{i}.{attention}": getattr(block, attention)
            for stack, _, attention, _ in self.stacks
            for i, block in enumerate(getattr(self.denoiser, stack))
        }

    def layers(self, grid: Size) -> list[Layer]:
        """One layer a block, all of the grid's size."""
        layers = []
        for stack, place, attention, (first, last) in self.stacks:
            count = len(getattr(self.denoiser, stack))
            start, stop = round(first * count), round(last * count)
            for i in range(count):
                by_default = first < last and start <= i < max(stop, start + 1)
                layers.append(Layer(f"{stack}.{i}.{attention}", place, True, grid, by_default))
        return layers


def reader(*encoders: Any) -> TextReader | None:
    """A `TextReader` of some text encoders; None if a pipeline was loaded without their tokenizers."""
    known = [encoder for encoder in encoders if encoder.tokenizer is not None]
    return TextReader(tuple(known)) if known else None


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Applies a function to every tensor in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, function) for item in value)
    return value
