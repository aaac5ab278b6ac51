"""What guidance costs, counted without weights: operation by operation on the meta device, before a run."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from attncontrol.attention.capture import attention_arguments
from attncontrol.attention.layers import Layer, Size
from attncontrol.attention.maps import LayerMap
from attncontrol.families import family_of_checkpoint
from attncontrol.families.base import Family
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.layout import Layout
from attncontrol.losses.base import Context, Method, Reading
from attncontrol.prompt.structure import Entity, PromptStructure, Word

Memory = Literal["auto", "fast", "low"]
SMALLEST = 1e-30  # of losses: one that has come down, but of something
USABLE = 0.9  # of the free memory: allocators lose some to fragments


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (a multiplication and an addition are two), and bytes above weights and inputs.

    `kept_bytes` are those of a guided pass between forward and backward (0 without), `peak_bytes` the most in use at
    one time, `forward` the operations of the forward.
    """

    operations: int
    kept_bytes: int
    peak_bytes: int
    forward: int


def guided_cost(
    family: Family, grid: Size, layers: Sequence[Layer], low_memory: bool = False, text: int | None = None
) -> Cost:
    """One guided pass of one image: the forward up to the last of the layers, and its backward to the latents.

    Args:
        family: That of the model.
        grid: (height, width) of the latents, of a transformer in patches.
        layers: Those whose maps are read.
        low_memory: Whether activations are recomputed.
        text: Text keys; the most that the family's pipelines use if absent.

    Returns:
        What it costs with fused attention wherever maps are not read. The losses themselves are left out, they are
        small; so are adapters, ControlNets and reference pictures.

    Raises:
        ValueError: For a UNet that takes other inputs than Stable Diffusion's, and where `low_memory` is refused.
    """
    return _count(_Pass.of(family, grid, text, tuple(layer.name for layer in layers), low_memory))


def plain_cost(family: Family, grid: Size, images: int | None = None, text: int | None = None) -> Cost:
    """One ordinary forward of so many rows; if absent, the calls of one step of plain sampling for one image.

    See `guided_cost`.
    """
    calls, rows = family.plain_calls if images is None else (1, images)
    call = _count(_Pass.of(family, grid, text, rows=rows))
    return dataclasses.replace(call, operations=calls * call.operations)


def fits_in_memory(family: Family, grid: Size, layers: Sequence[Layer], images: int, device: torch.device) -> bool:
    """Whether a guided pass of so many images at once, with all its activations, fits into what a device has free.

    True where it cannot be known: devices that do not tell, UNets that cannot be counted.
    """
    free = free_bytes(device)
    if free is None:
        return True
    try:
        needed = images * guided_cost(family, grid, layers).peak_bytes
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
    """What a method costs for one image.

    `passes`: the fewest and the most guided passes, depending on how refinement goes; `arithmetic`: the operations,
    drafts of the noise and further pictures included, of those of plain sampling; the costs of a plain step and of a
    guided pass in both memory modes; `low` is None where the model refuses it.
    """

    layers: tuple[Layer, ...]
    passes: tuple[int, int]
    arithmetic: tuple[float, float]
    plain: Cost
    fast: Cost
    low: Cost | None


def method_cost(family: Family, method: Method, grid: Size, steps: int = 50, text: int | None = None) -> MethodCost:
    """What a method costs a model; `grid`, `text` and what is raised as in `guided_cost`."""
    layers = method.select_layers(family.layers(grid))
    plain, fast = plain_cost(family, grid, text=text), guided_cost(family, grid, layers, text=text)
    low = guided_cost(family, grid, layers, True, text) if family.can_checkpoint(layers) else None
    shared = fast.forward / plain.operations if method.moves_after else 0
    ratio = fast.operations / plain.operations
    runs = zip(method.pictures, guided_passes(method, steps), method.draft_calls, strict=True)
    fewest, most = (
        (n * sum(passes), n * (1 + (sum(passes) * ratio - sum(map(bool, passes)) * shared + drafts) / steps))
        for n, passes, drafts in runs
    )
    passes, arithmetic = zip(fewest, most, strict=True)
    return MethodCost(tuple(layers), passes, arithmetic, plain, fast, low)


def guided_passes(method: Method, steps: int) -> tuple[list[int], list[int]]:
    """The fewest and the most guided passes of each of so many steps of an image of "a red cat and a blue frog"."""
    words = [("red", 2), ("cat", 3), ("blue", 6), ("frog", 7)]
    red, cat, blue, frog = (Word(text, token_indices=(position,)) for text, position in words)
    structure = PromptStructure("a red cat and a blue frog", (Entity(cat, (red,)), Entity(frog, (blue,))), "", 9)
    layout = Layout((((0.0, 0.0, 0.5, 1.0),), ((0.5, 0.0, 1.0, 1.0),)))
    contexts = [Context(structure, index, steps, layout=layout) for index in range(steps)]
    # whether a large monitor satisfies or not differs from method to method
    readings = [Reading(loss, monitor) for loss in (0.0, math.inf) for monitor in (-math.inf, math.inf)]
    counts = [[_passes_of_step(method, context, reading) for context in contexts] for reading in readings]
    return min(counts, key=sum), max(counts, key=sum)


def _passes_of_step(method: Method, context: Context, reading: Reading) -> int:
    """Guided passes of one step if every evaluation reads alike and all latents move."""
    read = dataclasses.replace(context, last_loss=max(reading.loss, SMALLEST))
    passes, evaluated = 0, False
    refinement = method.refine(read if context.index else context)
    step_size = next(refinement, None)
    while step_size is not None:
        passes += not evaluated
        evaluated = step_size == 0
        try:
            step_size = refinement.send(reading)
        except StopIteration:
            step_size = None
    return passes + (not evaluated and method.plain_step_size(read if context.index or passes else context) > 0)


def load_weightless(path: str, dtype: torch.dtype) -> tuple[Family, int, Size]:
    """The family of a checkpoint from its configurations alone, the pixels of an entry of its grid, its usual grid.

    Raises:
        ValueError: For a folder or id that is no checkpoint of a family.
    """
    try:
        index = DiffusionPipeline.load_config(path)
        component = next((name for name in ("transformer", "unet") if (index.get(name) or [None])[0]), "unet")
        config, vae = (AutoencoderKL.load_config(path, subfolder=part) for part in (component, "vae"))  # of any model
    except OSError as error:
        raise ValueError(f"no diffusers checkpoint at {path!r}: {error}") from error
    family = family_of_checkpoint(index, config).weightless(config, dtype)
    return family, family.latent_pixels(vae) * family.grid_latents, family.usual_grid


@dataclass(frozen=True)
class _Pass:
    """What is counted: a guided pass up to the last of some layers, or with `layers` None an ordinary forward."""

    kind: type[Family]
    config: str
    dtype: torch.dtype
    grid: Size
    text: int | None
    layers: tuple[str, ...] | None
    low_memory: bool
    rows: int

    @classmethod
    def of(
        cls,
        family: Family,
        grid: Size,
        text: int | None,
        layers: tuple[str, ...] | None = None,
        low_memory: bool = False,
        rows: int = 1,
    ) -> _Pass:
        config = json.dumps(dict(family.denoiser.config), sort_keys=True, default=str)
        return cls(type(family), config, family.denoiser.dtype, grid, text, layers, low_memory, rows)


@functools.lru_cache(maxsize=64)
def _count(counted: _Pass) -> Cost:
    family = counted.kind.weightless(json.loads(counted.config), counted.dtype)
    family.grid = lambda call: counted.grid  # type: ignore[method-assign]  # position ids have no values here
    for module in family.denoiser.modules():
        if any(hasattr(child, "processor") for child in module.children()):
            module.forward = _fused(module.forward)
    kept, forward, counter = 0, None, _Counter(family.denoiser)
    with torch.device("meta"), torch.inference_mode(False), torch.set_grad_enabled(counted.layers is not None):
        call = family.example_call(counted.rows, counted.grid, counted.text)
        if counted.layers is None:
            with counter:
                family.denoiser(**call)
        else:
            chosen = [layer for layer in family.layers(counted.grid) if layer.name in counted.layers]
            pass_ = GuidedPass(family, call, chosen, counted.low_memory)
            with counter, pass_.run(pass_.start, [0]) as (leaf, maps):
                kept, forward = counter.now, counter.operations
                total = torch.stack([_read(layer).sum() for layer in maps.layers]).sum()
                torch.autograd.grad(total, leaf)
    return Cost(counter.operations, kept, counter.peak, counter.operations if forward is None else forward)


def _read(layer: LayerMap) -> Tensor:
    """What methods make of a layer's maps: the sum over heads, some queries at a time; of self-attention less."""
    return layer.head_sum() if layer.layer.is_cross else layer.reduce(lambda p, _: p.sum()[None])


class _Counter(TorchDispatchMode):
    """Floating-point operations, and bytes of tensors that were made under it and are alive, without the weights.

    Not `FlopCounterMode`, which keeps tensors alive that checkpointing recomputes.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.operations = self.now = self.peak = 0
        weights = (*module.parameters(), *module.buffers())
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet(tensor.untyped_storage() for tensor in weights)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.operations += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
        return tree_map_only(Tensor, self._add, out)

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


def _fused(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block's forward under `_FusedAttention`, also where checkpointing calls it again."""

    @functools.wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _FusedAttention():
            return forward(*args, **kwargs)

    return wrapper


class _FusedAttention(TorchFunctionMode):
    """On the meta device attention would run as separate products; this is how a GPU runs it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value, *_ = attention_arguments(args, kwargs)
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        compute_logsumexp = torch.is_grad_enabled()
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, compute_logsumexp)[0]
