"""What guidance costs, counted without weights: operation by operation on the meta device, before a run."""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from attncontrol.families import UNetFamily, family_of
from attncontrol.guided_pass import GuidedPass
from attncontrol.maps import Layer, Size

USABLE = 0.9  # of the free memory: allocators lose some to fragments


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (a multiplication and an addition are two), and the most bytes in use at one time
    above the weights and the inputs."""

    operations: int
    peak_bytes: int


def guided_cost(family: UNetFamily, size: Size, layers: Sequence[Layer], low_memory: bool = False) -> Cost:
    """One guided pass of one image: the forward up to the last of the layers, and its backward to the latents.

    `size` is (height, width) of the latents. The losses themselves are left out, they are small; so are adapters and
    ControlNets. Counted with fused attention wherever maps are not read. Raises ValueError for a UNet that takes
    other inputs than Stable Diffusion's.
    """
    names = tuple(layer.name for layer in layers)
    return _count(_described(family), _is_xl(family), size, family.denoiser.dtype, names, low_memory)


def plain_cost(family: UNetFamily, size: Size, images: int = 2) -> Cost:
    """One ordinary forward of some images, 2 being one image with classifier-free guidance. See `guided_cost`."""
    return _count(_described(family), _is_xl(family), size, family.denoiser.dtype, None, images=images)


def fits_in_memory(family: UNetFamily, size: Size, layers: Sequence[Layer], images: int) -> bool:
    """Whether a guided pass of so many images at once fits into what the denoiser's device has free now.

    True where it cannot be known: devices that do not tell, UNets that cannot be counted.
    """
    free = free_bytes(family.denoiser.device)
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


def weightless_family(config: dict[str, Any], xl: bool, dtype: torch.dtype) -> UNetFamily:
    """The family of a UNet of this configuration, on the meta device."""
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    if known.get("encoder_hid_dim_type") == "ip_image_proj":  # an IP-Adapter that was loaded into it
        known |= {"encoder_hid_dim_type": None, "encoder_hid_dim": None}
    with torch.device("meta"):
        unet = nn.Module.to(UNet2DConditionModel.from_config(known), dtype).eval()
    parts = {"tokenizer": None, "text_encoder": None, "vae": None} | ({"tokenizer_2": None} if xl else {})
    return family_of(SimpleNamespace(unet=unet, do_classifier_free_guidance=False, **parts))


def _described(family: UNetFamily) -> str:
    return json.dumps(dict(family.denoiser.config), sort_keys=True, default=str)


def _is_xl(family: UNetFamily) -> bool:
    return len(family.default_places) == 1


@functools.lru_cache(maxsize=64)
def _count(
    config: str,
    xl: bool,
    size: Size,
    dtype: torch.dtype,
    layers: tuple[str, ...] | None,
    low_memory: bool = False,
    images: int = 1,
) -> Cost:
    family = weightless_family(json.loads(config), xl, dtype)
    for name, module in family.attention_modules().items():
        if name not in (layers or ()):
            module.set_processor(_FusedProcessor(module.processor))
    operations, memory = FlopCounterMode(display=False), _MemoryCounter(family.denoiser)
    with torch.device("meta"), torch.inference_mode(False), torch.set_grad_enabled(layers is not None):
        call = family.example_call(images, size)
        if layers is None:
            with operations, memory:
                family.denoiser(**call)
        else:
            chosen = [layer for layer in family.layers(size) if layer.name in layers]
            pass_ = GuidedPass(family, call, chosen, low_memory)
            with operations, memory, pass_.run(pass_.start, [0]) as (leaf, maps):
                total = torch.stack([layer.probabilities.sum() for layer in maps[0].layers]).sum()
                torch.autograd.grad(total, leaf)
    return Cost(operations.get_total_flops(), memory.peak)


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


class _FusedProcessor:
    """An attention processor under `_FusedAttention`, also where checkpointing calls it again."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        with _FusedAttention():
            return self.inner(*args, **kwargs)


class _FusedAttention(TorchFunctionMode):
    """On the meta device attention would run as separate products; this is how a GPU runs it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = args[:3] if len(args) >= 3 else (kwargs["query"], kwargs["key"], kwargs["value"])
        compute_logsumexp = torch.is_grad_enabled()
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, compute_logsumexp)[0]
