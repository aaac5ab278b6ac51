"""What guidance costs beside its arithmetic: operations and device reads of a round, outside the denoiser.

    python -m apps.benchmark_overhead                     # operations and reads, 1 and 64 images, all methods and auto
    python -m apps.benchmark_overhead --images 1,4,16,64
    python -m apps.benchmark_overhead --seconds           # seconds of the processor for 64 images, by those of plain

The bundled UNet draws prompts of one to four things with up to two modifiers each. A dispatch mode counts every ATen
operation of a guided round but those of the denoiser's forward and of its part of the backward pass; the largest
round of two sampling steps is printed. Device reads are what a GPU would have to wait for.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
import warnings
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from attncontrol import AttentionControlPipeline, method_classes
from attncontrol.families.base import Family
from attncontrol.guidance.engine import Engine
from attncontrol.guidance.settings import settings_of
from attncontrol.losses.base import MethodSum
from attncontrol.losses.combining import resolve_control

PROMPTS = (
    "a red crown and a blue bow",
    "a cat",
    "a lion and a green bench",
    "a pink apple and a small yellow clock and a bear",
    "a bird and a suitcase",
    "a big red car and a small blue backpack and a frog and a mouse",
    "a horse and a gray bowl",
    "a small purple chair",
)
LAYOUT_OF = {1: [[0.2, 0.2, 0.8, 0.8]], 2: [[0.0, 0.1, 0.5, 0.9], [0.5, 0.1, 1.0, 0.9]]}
GUIDING = [name for name in method_classes() if name not in ("best-start", "redraw")]  # which guide in no rounds
READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
)


class Operations(TorchDispatchMode):
    """Counts dispatched ATen operations and device reads, except while paused and in the denoiser's backward pass.

    A node of autograd's graph belongs to the denoiser if it was made before `first_node`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.reads = self.first_node = 0
        self.is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        node = torch._C._current_autograd_node()
        if not self.is_paused and (node is None or node._sequence_nr() >= self.first_node):
            self.count += 1
            masks = func is torch.ops.aten.index.Tensor and any(
                x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
            )
            self.reads += func in READS or masks
        return func(*args, **(kwargs or {}))


class ListReads(TorchFunctionMode):
    """Adds the reads that pass by the dispatcher on a CPU, of tensors that autograd or the denoiser knows."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.tolist and args[0].is_floating_point():
            self.operations.reads += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def counted_rounds() -> Iterator[list[tuple[int, int]]]:
    """Inside, the operations and reads of every guided round are added to the list."""
    rounds: list[tuple[int, int]] = []
    operations = Operations()
    one_round, forward = Engine._round, Family.run

    def counted(self: Engine, *args: Any) -> Tensor:
        operations.count = operations.reads = operations.first_node = 0
        with ListReads(operations), operations:
            latents = one_round(self, *args)
        rounds.append((operations.count, operations.reads))
        return latents

    def paused(self: Family, call: Any) -> Any:
        operations.is_paused = True
        try:
            return forward(self, call)
        finally:
            with torch.enable_grad():  # drafts have none
                node = torch.ones((), requires_grad=True).mul(1).grad_fn
            operations.first_node = node._sequence_nr()  # type: ignore[union-attr]
            operations.is_paused = False

    with patch.object(Engine, "_round", counted), patch.object(Family, "run", paused):
        yield rounds


def few_moves(methods: MethodSum) -> MethodSum:
    """The methods with one refinement move where they have many: all moves are alike."""
    fewer = {"max_refinement_steps": 1, "refinement_steps": 1}
    parts = (
        (weight, dataclasses.replace(method, **{k: v for k, v in fewer.items() if k in method.settings()}))
        for weight, method in methods.parts
    )
    return MethodSum(tuple(parts))


def call_of(control: MethodSum, images: int, steps: int | None) -> dict[str, Any]:
    """The arguments of a call for so many images of mixed prompts, each with its own seed."""
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(images)]
    layouts = [
        {name: LAYOUT_OF[min(len(own), 2)][i % 2 if len(own) > 1 else 0] for i, name in enumerate(own)}
        for own in ([part.split()[-1] for part in prompt.split(" and ")] for prompt in prompts)
    ]
    arguments: dict[str, Any] = {
        "prompt": prompts,
        "control": control,
        "generator": [torch.Generator().manual_seed(i) for i in range(images)],
        "layout": layouts if any(method.needs_layout for _, method in control.parts) else None,
        "output_type": "latent",
        "memory": "fast",
    }
    return arguments | ({} if steps is None else {"num_inference_steps": steps})


def overhead(pipe: AttentionControlPipeline, name: str, images: int) -> tuple[int, int]:
    """Operations and reads of the largest guided round of two steps."""
    control = few_moves(resolve_control(name, settings_of(pipe)))
    with counted_rounds() as rounds:
        pipe(**call_of(control, images, steps=2))
    return max(count for count, _ in rounds), max(reads for _, reads in rounds)


def seconds(pipe: AttentionControlPipeline, name: str | None, images: int) -> float:
    """Seconds of the processor for the whole call, in the settings of the model."""
    arguments = call_of(resolve_control(name, settings_of(pipe)), images, steps=None)
    start = time.process_time()
    pipe(**arguments)
    return time.process_time() - start


def main() -> None:
    """Prints the table that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1,64", help="numbers of images, default 1,64")
    parser.add_argument("--methods", help="names, default all and auto")
    parser.add_argument("--seconds", action="store_true", help="time 64 images of every method instead, in turn")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pipe = AttentionControlPipeline.from_pretrained("emoji")
    pipe.set_progress_bar_config(disable=True)
    names = arguments.methods.split(",") if arguments.methods else [*GUIDING, "auto"]
    if arguments.seconds:
        seconds(pipe, None, 1)
        for name in names:
            plain = seconds(pipe, None, 64)
            print(f"{name:22} {seconds(pipe, name, 64) / plain:.2f} of plain", flush=True)
        return
    counts = [int(number) for number in arguments.images.split(",")]
    print(f"{'operations in a round':22}" + "".join(f"{count:>9}" for count in counts) + "   last by first   reads")
    for name in names:
        found = [overhead(pipe, name, count) for count in counts]
        operations = "".join(f"{count:>9}" for count, _ in found)
        print(f"{name:22}{operations}{found[-1][0] / found[0][0]:>16.2f}{max(r for _, r in found):>8}", flush=True)


if __name__ == "__main__":
    main()
