"""Python function calls of a guided pass beyond those of the denoiser's own truncated forward and backward.

    python apps/benchmark_pass.py             # the Stable Diffusion 1.5 architecture with few channels, 512 px
    python apps/benchmark_pass.py --size 256

On a GPU, Python calls are what a guided pass of one image waits for. Counted with sys.setprofile, which other
programs cannot blur, in one thread on the CPU: a pass of the layers of Attend-and-Excite with a sum in place of the
loss, as the first of a step, with the choice of layers, and as a later one (refinement); against the same UNet called
directly, stopped after the same layer, and differentiated to the latents.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from apps.benchmark_speed import SMALL, UNETS
from attncontrol import AttendAndExcite
from attncontrol.attention.capture import ForwardTruncated
from attncontrol.families.unet import UNetFamily
from attncontrol.guidance.guided_pass import GuidedPass


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels")
    torch.set_num_threads(1)
    counts = count_passes(parser.parse_args().size // 8)
    print("| | Python calls | beyond the forward's, of these |")
    print("| --- | --- | --- |")
    for name, calls in counts.items():
        print(f"| {name} | {calls} | {calls / counts['forward'] - 1:.1%} |")


def count_passes(side: int) -> dict[str, int]:
    """Python calls of the direct forward and of guided passes, for latents of this side."""
    unet = UNet2DConditionModel(**UNETS["1.5"] | SMALL["1.5"]).eval()
    parts = dict.fromkeys(("tokenizer", "text_encoder", "vae"))
    family = UNetFamily(SimpleNamespace(unet=unet, do_classifier_free_guidance=True, **parts))
    call = {
        "sample": torch.randn(1, 4, side, side).repeat(2, 1, 1, 1),
        "timestep": torch.tensor(501),
        "encoder_hidden_states": torch.randn(2, 77, 768),
    }
    method = AttendAndExcite()

    def first() -> GuidedPass:
        guided = GuidedPass(family, call, method.select_layers(family.layers((side, side))))
        run(guided)
        return guided

    guided = first()
    last = family.modules[guided.layers[-1].name]
    direct = {name: value if value.ndim == 0 else value[1:] for name, value in call.items()}
    return {
        "forward": python_calls(lambda: forward(unet, last, direct)),
        "first pass of a step": python_calls(first),
        "later pass": python_calls(lambda: run(guided)),
    }


def run(guided: GuidedPass) -> None:
    """One pass and its gradient."""
    with guided.run(guided.start, [0]) as (leaf, maps):
        torch.autograd.grad(torch.stack([layer.probabilities.sum() for layer in maps.layers]).sum(), leaf)


def forward(unet: torch.nn.Module, last: torch.nn.Module, call: dict[str, Any]) -> None:
    """The UNet's own forward until a module is done, and the gradient of that module's output."""
    leaf, outputs = call["sample"].clone().requires_grad_(), []

    def stop(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        outputs.append(output)
        raise ForwardTruncated

    handle = last.register_forward_hook(stop)
    with suppress(ForwardTruncated):
        unet(**{**call, "sample": leaf})
    handle.remove()
    torch.autograd.grad(outputs[0].sum(), leaf)


def python_calls(function: Callable[[], Any]) -> int:
    """How many Python functions a second run of a function calls."""
    function()
    count = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


if __name__ == "__main__":
    main()
