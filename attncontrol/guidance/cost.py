"""What guidance costs, counted without weights: operation by operation on the meta device, before a run."""

from __future__ import annotations

import functools
import json
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from attncontrol.attention.layers import Layer, Size
from attncontrol.families import family_of_checkpoint
from attncontrol.families.base import Family
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.layout import Layout
from attncontrol.losses.base import Context, Method, Reading
from attncontrol.prompt.structure import Entity, PromptStructure, Word

Memory = Literal["auto", "fast", "low"]
USABLE = 0.9  # of the free memory: allocators lose some to fragments


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (a multiplication and an addition are two), and bytes above weights and inputs.

    `kept_bytes` are those of a guided pass between forward and backward (0 without), `peak_bytes` the most in use at
    one time.
    """

    operations: int
    kept_bytes: int
    peak_bytes: int


def guided_cost(family: Family, size: Size, layers: Sequence[Layer], low_memory: bool = False) -> Cost:
    """Counts one guided pass of one image: the forward up to the last of the layers, and its backward to the latents.

    The losses themselves are left out, they are small; so are adapters and ControlNets. Counted with fused attention
    wherever maps are not read.

    Args:
        family: Of the denoiser; its weights may be on the meta device.
        size: (height, width) of the latents.
        layers: Those that are captured.
        low_memory: Whether activations are recomputed in the backward pass.

    Raises:
        ValueError: For a UNet that takes other inputs than Stable Diffusion's.
    """
    names = tuple(layer.name for layer in layers)
    return _count(type(family), _described(family), size, family.denoiser.dtype, names, low_memory)


def plain_cost(family: Family, size: Size, images: int = 2) -> Cost:
    """One ordinary forward of some images, 2 being one image with classifier-free guidance. See `guided_cost`."""
    return _count(type(family), _described(family), size, family.denoiser.dtype, None, images=images)


def fits_in_memory(family: Family, size: Size, layers: Sequence[Layer], images: int, device: torch.device) -> bool:
    """Whether a guided pass of so many images at once, with all its activations, fits into what a device has free.

    True where it cannot be known: devices that do not tell, UNets that cannot be counted.
    """
    free = free_bytes(device)
    if free is None:
        return True
    try:
        needed = images * guided_cost(family, size, layers).peak_bytes
    except ValueError:
        return True
    return needed <= USABLE * free


def free_bytes(device: torch.device) -> int | None:
    """Memory that new tensors may take on a device: a GPU's, or the computer's for the CPU. None if unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if device.type == "cpu":
        import psutil

        return psutil.virtual_memory().available
    return None


@dataclass(frozen=True)
class MethodCost:
    """What a method costs for one image with classifier-free guidance.

    `passes`: the fewest and the most guided passes of a run, depending on how refinement goes; `arithmetic`: the
    operations of such runs, of those of plain sampling; the costs of a plain step and of a guided pass in both memory
    modes.
    """

    layers: tuple[Layer, ...]
    passes: tuple[int, int]
    arithmetic: tuple[float, float]
    plain: Cost
    fast: Cost
    low: Cost


def method_cost(family: Family, method: Method, size: Size, steps: int = 50) -> MethodCost:
    """What a method costs a model; `size` is (height, width) of the latents. Raises ValueError as `guided_cost`."""
    layers = method.select_layers(family.layers(size))
    plain, fast, low = plain_cost(family, size), *(guided_cost(family, size, layers, low) for low in (False, True))
    passes = guided_passes(method, steps)
    arithmetic = tuple(1 + n * fast.operations / (steps * plain.operations) for n in passes)
    return MethodCost(tuple(layers), passes, arithmetic, plain, fast, low)


def guided_passes(method: Method, steps: int) -> tuple[int, int]:
    """The fewest and the most guided passes of an image of "a red cat and a blue frog" in a run of so many steps."""
    words = [("red", 2), ("cat", 3), ("blue", 6), ("frog", 7)]
    red, cat, blue, frog = (Word(text, token_indices=(position,)) for text, position in words)
    structure = PromptStructure("a red cat and a blue frog", (Entity(cat, (red,)), Entity(frog, (blue,))), "", 9)
    layout = Layout((((0.0, 0.0, 0.5, 1.0),), ((0.5, 0.0, 1.0, 1.0),)))
    contexts = [Context(structure, index, steps, layout=layout) for index in range(steps)]
    # whether a large monitor satisfies or not differs from method to method
    readings = [Reading(loss, monitor) for loss in (0.0, math.inf) for monitor in (-math.inf, math.inf)]
    counts = [sum(_passes_of_step(method, context, reading) for context in contexts) for reading in readings]
    return min(counts), max(counts)


def _passes_of_step(method: Method, context: Context, reading: Reading) -> int:
    """Guided passes of one step if every evaluation reads alike and all latents move."""
    passes, evaluated = 0, False
    refinement = method.refine(context)
    step_size = next(refinement, None)
    while step_size is not None:
        passes += not evaluated
        evaluated = step_size == 0
        try:
            step_size = refinement.send(reading)
        except StopIteration:
            step_size = None
    return passes + (not evaluated and method.plain_step_size(context) > 0)


def _described(family: Family) -> str:
    return json.dumps(dict(family.denoiser.config), sort_keys=True, default=str)


def load_weightless(path: str, dtype: torch.dtype) -> tuple[Family, int, Size]:
    """The family of a checkpoint from its configurations alone, the pixels of a latent, and the latents' usual size.

    Raises:
        ValueError: For a folder or id that is no checkpoint with a UNet.
    """
    try:
        index = DiffusionPipeline.load_config(path)
        unet = UNet2DConditionModel.load_config(path, subfolder="unet")
        vae = AutoencoderKL.load_config(path, subfolder="vae")
    except OSError as error:
        raise ValueError(f"no Stable Diffusion checkpoint at {path!r}: {error}") from error
    side = unet["sample_size"]
    size = (side, side) if isinstance(side, int) else tuple(side)
    family = family_of_checkpoint(index, unet).weightless(unet, dtype)
    return family, 2 ** (len(vae["block_out_channels"]) - 1), size


@functools.lru_cache(maxsize=64)
def _count(
    kind: type[Family],
    config: str,
    size: Size,
    dtype: torch.dtype,
    layers: tuple[str, ...] | None,
    low_memory: bool = False,
    images: int = 1,
) -> Cost:
    family = kind.weightless(json.loads(config), dtype)
    for module in family.attention_modules().values():
        module.forward = _fused(module.forward)
    kept, operations, memory = 0, FlopCounterMode(display=False), _MemoryCounter(family.denoiser)
    with torch.device("meta"), torch.inference_mode(False), torch.set_grad_enabled(layers is not None):
        call = family.example_call(images, size)
        if layers is None:
            with operations, memory:
                family.denoiser(**call)
        else:
            chosen = [layer for layer in family.layers(size) if layer.name in layers]
            pass_ = GuidedPass(family, call, chosen, low_memory)
            with operations, memory, pass_.run(pass_.start, [0]) as (leaf, maps):
                kept = memory.now
                total = torch.stack([layer.reduce(lambda p, _: p.sum()[None]).sum() for layer in maps.layers]).sum()
                torch.autograd.grad(total, leaf)
    return Cost(operations.get_total_flops(), kept, memory.peak)


class _MemoryCounter(TorchDispatchMode):
    """The most bytes of tensors that were made under it and were alive at one time, without a module's weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        weights = (*module.parameters(), *module.buffers())
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet(tensor.untyped_storage() for tensor in weights)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(Tensor, self._add, func(*args, **(kwargs or {})))

    def _add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, storage.nbytes())
        return tensor

    def _drop(self, size: int) -> None:
        self.now -= size


def _fused(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer's forward under `_FusedAttention`, also where checkpointing calls it again."""

    @functools.wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        with _FusedAttention():
            return forward(*args, **kwargs)

    return wrapper


class _FusedAttention(TorchFunctionMode):
    """On the meta device attention would run as separate products; this is how a GPU runs it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = args[:3] if len(args) >= 3 else (kwargs["query"], kwargs["key"], kwargs["value"])
        compute_logsumexp = torch.is_grad_enabled()
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, compute_logsumexp)[0]
