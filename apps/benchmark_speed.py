"""Time, memory and arithmetic of guidance on the full-size Stable Diffusion 1.5 and XL architectures.

    python apps/benchmark_speed.py                     # 1.5 on a CPU, float32, 512 px, 2 steps of which 1 is guided
    python apps/benchmark_speed.py --device cuda --dtype float16 --steps 50
    python apps/benchmark_speed.py --model xl --dtype bfloat16     # 1024 px; 5 GB of weights, 10 GB in float32
    python apps/benchmark_speed.py --model xl --count              # every method, counted without weights in seconds
    python apps/benchmark_speed.py --methods syngen,conform        # times these, or "all", at their published settings

The weights are random: cost does not depend on them. Plain sampling, the pipeline that diffusers still carries and
attncontrol run in turn, each in a process of its own with the same weights and settings; the latents of the two
guided ones must agree. For XL diffusers has none: there the latents of both memory modes must agree. Half of the steps
are guided, once each, without refinement; with --methods as each method's published settings have it, and how often
is counted. Memory is the peak above what the loaded weights take. Arithmetic is counted
operation by operation, in a run of its own or, with --count, for every method at its published settings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionAttendAndExcitePipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import BaseOutput
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attncontrol import AttendAndExcite, AttentionControlPipeline, create_method, method_classes
from attncontrol.families.unet import UNetFamily
from attncontrol.families.xl import XLFamily
from attncontrol.guidance.cost import method_cost

RUNS = {
    "1.5": ("plain", "peer", "ours", "ours, low memory"),
    "xl": ("plain", "ours", "ours, low memory"),
}
AGAINST = {"1.5": "peer", "xl": "ours"}  # the run that memory, time and latents are compared with
SIDES = {"1.5": 512, "xl": 1024}
UNETS = {
    "1.5": {
        "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "xl": {
        "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 1280 + 6 * 256,
    },
}  # fmt: skip
SMALL = {
    "1.5": {"block_out_channels": (32, 64, 128, 128)},
    "xl": {"block_out_channels": (32, 64, 128), "transformer_layers_per_block": (1, 1, 2), "attention_head_dim": 4},
}
STEP_SIZE = 20.0
TOKENS = [2, 5]
PAIRS = [[[2], 3], [[6], 7]]  # as in "a red cat and a blue frog"
BOXES = {
    "objects": [
        {"phrase": "first", "tokens": [2, 3], "boxes": [[0.0, 0.0, 0.5, 1.0]]},
        {"phrase": "second", "tokens": [6, 7], "boxes": [[0.5, 0.0, 1.0, 1.0]]},
    ]
}


def main() -> None:
    """Runs every pipeline in a process of its own and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="1.5", choices=list(UNETS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--size", type=int, help="side of the image in pixels; 512, for XL 1024")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--repeats", type=int, default=1, help="rounds through all pipelines; the medians are printed")
    parser.add_argument("--small", action="store_true", help="a few channels only, to try the program out")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON to this file")
    parser.add_argument("--count", action="store_true", help="count the cost of every method, run nothing")
    parser.add_argument("--methods", help="time these methods, separated by commas, or 'all'")
    parser.add_argument("--memory", default="fast", choices=["fast", "low"], help="for --methods")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--latents", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.size = arguments.size or SIDES[arguments.model]
    if arguments.count:
        count_methods(arguments)
    elif arguments.run == "count":
        print(json.dumps(count_operations(arguments)))
    elif arguments.run:
        print(json.dumps(measure(arguments)))
    elif arguments.methods:
        report_methods(arguments)
    else:
        report(arguments)


def report(arguments: argparse.Namespace) -> None:
    """The parent process: alternates the runs, checks the latents, prints a Markdown table."""
    runs, against = RUNS[arguments.model], AGAINST[arguments.model]
    figures: dict[str, list[dict]] = {run: [] for run in runs}
    with tempfile.TemporaryDirectory() as folder:
        files = {run: Path(folder) / f"{i}.pt" for i, run in enumerate(runs)}
        for _ in range(arguments.repeats):
            for run in runs:
                figures[run].append(child(run, files[run]))
                print(f"{run}: {figures[run][-1]}", file=sys.stderr)
        latents = {run: torch.load(file).float() for run, file in files.items()}
    scale = latents[against].abs().max()
    agreement = {run: ((latents[run] - latents[against]).abs().max() / scale).item() for run in runs}
    tolerance = 1e-4 if arguments.dtype == "float32" else 5e-2
    if max(agreement["ours"], agreement["ours, low memory"]) > tolerance:
        sys.exit(f"the latents do not agree, so there is nothing to compare: {agreement}")
    operations = child("count", None)
    median = {run: {key: middle([f[key] for f in figures[run]]) for key in figures[run][0]} for run in runs}
    print(
        f"| run | model calls | seconds | of plain | of {against} | GiB above weights | of {against} "
        f"| latents against {against} |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for run in runs:
        seconds, memory = median[run]["seconds"], median[run]["peak_bytes"]
        print(
            f"| {run} | {median[run]['calls']} | {seconds:.1f} | {seconds / median['plain']['seconds']:.2f} "
            f"| {seconds / median[against]['seconds']:.2f} | {memory / 2**30:.2f} "
            f"| {memory / median[against]['peak_bytes']:.2f} | {agreement[run]:.1e} |"
        )
    print("\nArithmetic, of plain sampling: " + ", ".join(f"{k} {v:.3f}" for k, v in operations.items()))
    if arguments.output:
        result = {"arguments": vars(arguments), "median": median, "agreement": agreement, "arithmetic": operations}
        arguments.output.write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")


def report_methods(arguments: argparse.Namespace) -> None:
    """The parent process of --methods: plain sampling and the methods in turn, as a Markdown table."""
    known = list(method_classes())
    names = known if arguments.methods == "all" else arguments.methods.split(",")
    if unknown := set(names) - set(known):
        sys.exit(f"no such method: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    figures: dict[str, list[dict]] = {run: [] for run in ("plain", *names)}
    for _ in range(arguments.repeats):
        for run in figures:
            figures[run].append(child(run, None))
            print(f"{run}: {figures[run][-1]}", file=sys.stderr)
    median = {run: {key: middle([f[key] for f in figures[run]]) for key in figures[run][0]} for run in figures}
    plain = median["plain"]["seconds"]
    print("| run | seconds | of plain | guided passes | one pass, of a plain step | GiB above weights |")
    print("| --- | --- | --- | --- | --- | --- |")
    for run, found in median.items():
        seconds, passes = found["seconds"], found["passes"]
        one = f"{(seconds - plain) / passes / (plain / arguments.steps):.3f}" if passes else ""
        memory = found["peak_bytes"] / 2**30
        print(f"| {run} | {seconds:.2f} | {seconds / plain:.2f} | {passes} | {one} | {memory:.2f} |")
    if arguments.output:
        result = {"arguments": vars(arguments), "median": median}
        arguments.output.write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")


def child(run: str, latents: Path | None) -> dict:
    """Runs this program for one pipeline and returns the figures it prints last."""
    command = [sys.executable, __file__, *sys.argv[1:], "--run", run]
    if latents is not None:
        command += ["--latents", str(latents)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds, peak bytes above the weights, model calls and guided passes of a run; its latents may go to a file."""
    pipe = pipeline(arguments, arguments.run)
    call = call_arguments(arguments)
    if arguments.device.startswith("cuda"):
        generate(pipe, arguments, call)  # kernels are chosen in a first run
        torch.cuda.synchronize()
    calls = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    memory = PeakMemory(arguments.device)
    start = time.perf_counter()
    output = generate(pipe, arguments, call)
    latents = output.images.cpu()
    seconds = time.perf_counter() - start
    handle.remove()
    if arguments.latents:
        torch.save(latents, arguments.latents)
    steps = output.control.images[0].steps if getattr(output, "control", None) else ()
    passes = sum(len(values) for step in steps for values in step.losses.values())
    peak = memory.peak_above_start()
    return {"seconds": seconds, "peak_bytes": peak, "calls": len(calls), "passes": passes}


def count_operations(arguments: argparse.Namespace) -> dict[str, float]:
    """Floating-point operations of the guided run divided by those of plain sampling."""
    counts = {}
    for run in ("plain", "ours"):
        counter = FlopCounterMode(display=False)
        pipe, call = pipeline(arguments, run), call_arguments(arguments)
        # the counter knows matrix products, not every fused attention kernel
        with sdpa_kernel(SDPBackend.MATH), counter:
            generate(pipe, argparse.Namespace(**{**vars(arguments), "run": run}), call)
        counts[run] = counter.get_total_flops()
    return {run: count / counts["plain"] for run, count in counts.items() if run != "plain"}


def count_methods(arguments: argparse.Namespace) -> None:
    """Prints what every method costs at its published settings in 50 steps, counted on the meta device."""
    kind = XLFamily if arguments.model == "xl" else UNetFamily
    family = kind.weightless(architecture(arguments), getattr(torch, arguments.dtype))
    print("| method | maps | layers | guided passes in 50 steps | one pass, of plain | arithmetic, of plain "
          "| GiB kept for backward | low memory | GiB above weights | low memory |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in method_classes():
        cost = method_cost(family, create_method(name), (arguments.size // 8,) * 2)
        (least, most), (low, high) = cost.passes, cost.arithmetic
        memory = (cost.fast.kept_bytes, cost.low.kept_bytes, cost.fast.peak_bytes, cost.low.peak_bytes)
        print(
            f"| {name} | {cost.layers[0].size[0]}x{cost.layers[0].size[1]} | {len(cost.layers)} | {least} to {most} "
            f"| {cost.fast.operations / cost.plain.operations:.3f} | {low:.3f} to {high:.3f} "
            + "".join(f"| {size / 2**30:.2f} " for size in memory)
            + "|"
        )
    print(f"\nPlain sampling takes {cost.plain.peak_bytes / 2**30:.2f} GiB above the weights.")


def architecture(arguments: argparse.Namespace) -> dict:
    """The UNet's configuration."""
    return UNETS[arguments.model] | (SMALL[arguments.model] if arguments.small else {})


def pipeline(arguments: argparse.Namespace, run: str) -> DiffusionPipeline:
    """The pipeline of one run, with the random weights that all runs share."""
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.dtype)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # a full-size XL in float32 and then in bfloat16 would need three times the memory
    try:
        with torch.device(arguments.device):
            unet = UNet2DConditionModel(**architecture(arguments)).eval()
    finally:
        torch.set_default_dtype(default)
    pipe = xl_pipeline(unet) if arguments.model == "xl" else first_pipeline(unet, run)
    if run not in ("plain", "peer"):
        pipe = AttentionControlPipeline.from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def xl_pipeline(unet: UNet2DConditionModel) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL around a UNet, with its Euler scheduler."""
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return StableDiffusionXLPipeline(
        vae=None, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=unet,
        scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip


def first_pipeline(unet: UNet2DConditionModel, run: str) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 around a UNet, or diffusers' Attend-and-Excite pipeline for the run "peer"."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    cls = StableDiffusionAttendAndExcitePipeline if run == "peer" else StableDiffusionPipeline
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(
            vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip


def call_arguments(arguments: argparse.Namespace) -> dict:
    """What every run is called with: random text states and a seeded start."""
    generator = torch.Generator().manual_seed(1)
    to = {"device": arguments.device, "dtype": getattr(torch, arguments.dtype)}
    embeds = torch.randn(2, 1, 77, UNETS[arguments.model]["cross_attention_dim"], generator=generator).to(**to)
    call = {
        "prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1], "height": arguments.size,
        "width": arguments.size, "num_inference_steps": arguments.steps, "output_type": "latent",
        "generator": torch.Generator().manual_seed(2), "guidance_scale": 7.5, "num_images_per_prompt": arguments.batch,
    }  # fmt: skip
    if arguments.model == "xl":
        pooled = torch.randn(2, 1, 1280, generator=generator).to(**to)
        call |= {"pooled_prompt_embeds": pooled[0], "negative_pooled_prompt_embeds": pooled[1]}
    return call


def generate(pipe: DiffusionPipeline, arguments: argparse.Namespace, call: dict) -> BaseOutput:
    """One image's latents, plain, under one method, or with the first half of the steps guided."""
    guided = arguments.steps // 2
    if arguments.run == "plain":
        return pipe(**call)
    if arguments.run in method_classes():
        method = create_method(arguments.run)
        layout = BOXES if method.needs_layout else None
        return pipe(control=method, subjects=PAIRS, layout=layout, memory=arguments.memory, **call)
    if arguments.run == "peer":
        return pipe(
            prompt=None, token_indices=TOKENS, thresholds={}, max_iter_to_alter=guided, scale_factor=STEP_SIZE,
            attn_res=(arguments.size // 32,) * 2, **call,
        )  # fmt: skip
    control = AttendAndExcite(
        variant="reference", thresholds={}, step_size=STEP_SIZE, stop=guided / arguments.steps,
        resolution=arguments.size // 32,
    )  # fmt: skip
    memory = "low" if arguments.run.endswith("low memory") else "fast"
    return pipe(control=control, subjects=TOKENS, memory=memory, **call)


class PeakMemory:
    """Peak memory above the present: allocator statistics on a GPU, resident size (Linux) on a CPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
            self.start = self._resident("VmRSS")

    def peak_above_start(self) -> int:
        """Bytes."""
        peak = torch.cuda.max_memory_allocated() if self.cuda else self._resident("VmHWM")
        return peak - self.start

    @staticmethod
    def _resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
