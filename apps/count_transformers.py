"""What a guided pass costs the diffusion transformers at 1024 px, counted on the meta device without weights.

    python apps/count_transformers.py                          # all models: a quarter of an hour
    python apps/count_transformers.py --model "FLUX.1 dev"     # one, with every method
    python apps/count_transformers.py --measure                # seconds and memory on a GPU, with random weights

Layers are each family's default ones. Arithmetic is that of a pass (the forward up to the last layer that is looked
at, its maps, the backward to the latents) of one step of plain sampling, which is two forwards with classifier-free
guidance. Memory is what lies above the weights, for one image, in bfloat16: what waits for the backward pass, and the
most at one time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from apps.benchmark_speed import PeakMemory
from attncontrol import create_method, method_classes
from attncontrol.families import KNOWN
from attncontrol.families.base import Family
from attncontrol.guidance.cost import Cost, guided_cost, method_cost, plain_cost
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.guidance.settings import settings_for

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "FLUX.1 dev": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "SD 3.5 medium": (
        "SD3Transformer2DModel",
        {
            "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "qk_norm": "rms_norm",
            "dual_attention_layers": list(range(13)), "pos_embed_max_size": 384,
        },
    ),
    "SD 3.5 large": (
        "SD3Transformer2DModel",
        {
            "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm",
            "pos_embed_max_size": 192,
        },
    ),
    "PixArt-Sigma": ("PixArtTransformer2DModel", {"caption_channels": 4096, "use_additional_conditions": False}),
    "Qwen-Image": ("QwenImageTransformer2DModel", {}),
    "FLUX.2 dev": ("Flux2Transformer2DModel", {}),
    "Z-Image": ("ZImageTransformer2DModel", {}),
    "Sana 1.6B": ("SanaTransformer2DModel", {}),
    "Chroma": ("ChromaTransformer2DModel", {}),
    "AuraFlow": ("AuraFlowTransformer2DModel", {}),
    "Lumina 2": ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
    "CogView 4": ("CogView4Transformer2DModel", {"num_attention_heads": 32, "attention_head_dim": 128}),
}  # fmt: skip


def main() -> None:
    """Prints a row for every model, or for every method of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS))
    parser.add_argument("--measure", action="store_true", help="on a GPU")
    arguments = parser.parse_args()
    if arguments.measure:
        measure_models([arguments.model] if arguments.model else list(MODELS))
    elif arguments.model:
        print_methods(weightless(arguments.model))
    else:
        print_models(MODELS)


def weightless(name: str) -> Family:
    """A model without weights, in bfloat16."""
    denoiser, config = MODELS[name]
    return KNOWN[denoiser].weightless(config, torch.bfloat16)


def grid(family: Family) -> tuple[int, int]:
    """Of an image of 1024 px: 64x64 patches, or 32x32 of latents that are smaller (Sana)."""
    side = 1024 // family.size_multiple
    return side, side


def print_models(names: Sequence[str]) -> None:
    """What a pass over the default layers costs each model."""
    print("| model | plain step, TFLOP | layers | arithmetic, low | kept, GiB | low | most, GiB | low |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        family = weightless(name)
        layers = create_method("attend-and-excite").select_layers(family.layers(grid(family)))
        plain = plain_cost(family, grid(family))
        fast, low = (guided_cost(family, grid(family), layers, mode) for mode in (False, True))
        paths = f"{layers[0].path} to {layers[-1].path}"
        arithmetic = ", ".join(f"{cost.operations / plain.operations:.2f}" for cost in (fast, low))
        print(f"| {name} | {plain.operations / 1e12:.1f} | {paths} | {arithmetic} | {memory(fast, low)} |", flush=True)


def measure_models(names: Sequence[str]) -> None:
    """What a forward and a pass over the default layers take on a GPU."""
    print("| model | forward, s | pass, of a forward | low | forward, GiB | pass, GiB | low |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        seconds, peaks = zip(*measure_model(weightless(name)), strict=True)
        figures = [f"{value / seconds[0]:.2f}" for value in seconds[1:]] + [f"{peak / 2**30:.2f}" for peak in peaks]
        print(f"| {name} | {seconds[0]:.3f} | {' | '.join(figures)} |", flush=True)


def measure_model(
    family: Family, device: str = "cuda", size: tuple[int, int] | None = None
) -> list[tuple[float, int]]:
    """Seconds, and the most bytes above weights and inputs, of a forward, a pass, and one with low memory."""
    size = size or grid(family)
    family.denoiser.to_empty(device=device)
    for tensor in (*family.denoiser.parameters(), *family.denoiser.buffers()):
        tensor.data.normal_(std=0.02)
    family.grid = lambda call: size  # type: ignore[method-assign]  # position ids have no values here
    with torch.device(device):
        call = family.example_call(1, size)
    for value in call.values():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value.normal_()
    layers = create_method("attend-and-excite").select_layers(family.layers(size))

    def forward() -> None:
        with torch.no_grad():
            family.denoiser(**call)

    def guided(low_memory: bool) -> None:
        guided = GuidedPass(family, call, layers, low_memory)
        with guided.run(guided.start, [0]) as (leaf, maps):
            total = torch.stack([layer.head_sum().sum() for layer in maps.layers]).sum()
            torch.autograd.grad(total, leaf)

    return [timed(work, device) for work in (forward, lambda: guided(False), lambda: guided(True))]


def timed(work: Callable[[], None], device: str) -> tuple[float, int]:
    """Seconds and peak bytes of the second run."""
    wait = torch.cuda.synchronize if device == "cuda" else torch.cpu.synchronize
    work()
    wait()
    memory = PeakMemory(device)
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start, memory.peak_above_start()


def print_methods(family: Family) -> None:
    """What every method costs in the family's settings, in 28 steps."""
    print("| method | layers | guided passes in 28 steps | arithmetic, of plain | kept, GiB | low | most, GiB | low |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    settings = settings_for(family, {})
    for name in method_classes():
        cost = method_cost(family, create_method(name, **settings[name]), grid(family), 28)
        passes, arithmetic = (ends(*pair) for pair in (cost.passes, [round(x, 2) for x in cost.arithmetic]))
        figures = memory(cost.fast, cost.low or cost.fast)
        print(f"| {name} | {len(cost.layers)} | {passes} | {arithmetic} | {figures} |", flush=True)


def memory(fast: Cost, low: Cost) -> str:
    """The cells of what is kept and of the most, each in both modes."""
    sizes = (fast.kept_bytes, low.kept_bytes, fast.peak_bytes, low.peak_bytes)
    return " | ".join(f"{size / 2**30:.2f}" for size in sizes)


def ends(first: float, last: float) -> str:
    """A range, or the one number."""
    return f"{first}" if first == last else f"{first} to {last}"


if __name__ == "__main__":
    main()
