"""Time, memory and arithmetic of Attend-and-Excite on the full-size Stable Diffusion 1.5 architecture.

    python apps/benchmark_speed.py                     # CPU, float32, 512 px, 2 steps of which 1 is guided
    python apps/benchmark_speed.py --device cuda --dtype float16 --steps 50

The weights are random: cost does not depend on them. Plain sampling, the pipeline that diffusers still carries and
attncontrol run in turn, each in a process of its own with the same weights and settings; the latents of the two
guided ones must agree. Half of the steps are guided, once each, without refinement. Memory is the peak above what the
loaded weights take. Arithmetic is counted operation by operation in a run of its own.
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
    StableDiffusionAttendAndExcitePipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attncontrol import AttendAndExcite, AttentionControlPipeline

RUNS = ("plain", "peer", "ours", "ours, low memory")
STEP_SIZE = 20.0
TOKENS = [2, 5]


def main() -> None:
    """Runs every pipeline in a process of its own and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="rounds through all pipelines; the medians are printed")
    parser.add_argument("--small", action="store_true", help="a few channels only, to try the program out")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON to this file")
    parser.add_argument("--run", choices=[*RUNS, "count"], help=argparse.SUPPRESS)
    parser.add_argument("--latents", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run == "count":
        print(json.dumps(count_operations(arguments)))
    elif arguments.run:
        print(json.dumps(measure(arguments)))
    else:
        report(arguments)


def report(arguments: argparse.Namespace) -> None:
    """The parent process: alternates the runs, checks the latents, prints a Markdown table."""
    figures: dict[str, list[dict]] = {run: [] for run in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        files = {run: Path(folder) / f"{i}.pt" for i, run in enumerate(RUNS)}
        for _ in range(arguments.repeats):
            for run in RUNS:
                figures[run].append(child(run, files[run]))
                print(f"{run}: {figures[run][-1]}", file=sys.stderr)
        latents = {run: torch.load(file).float() for run, file in files.items()}
    scale = latents["peer"].abs().max()
    agreement = {run: ((latents[run] - latents["peer"]).abs().max() / scale).item() for run in RUNS}
    operations = child("count", None)
    median = {run: {key: middle([f[key] for f in figures[run]]) for key in figures[run][0]} for run in RUNS}
    print("| run | seconds | of plain | of peer | GiB above weights | of peer | latents against the peer's |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for run in RUNS:
        seconds, memory = median[run]["seconds"], median[run]["peak_bytes"]
        print(
            f"| {run} | {seconds:.1f} | {seconds / median['plain']['seconds']:.2f} "
            f"| {seconds / median['peer']['seconds']:.2f} | {memory / 2**30:.2f} "
            f"| {memory / median['peer']['peak_bytes']:.2f} | {agreement[run]:.1e} |"
        )
    print("\nArithmetic, of plain sampling: " + ", ".join(f"{k} {v:.3f}" for k, v in operations.items()))
    if arguments.output:
        result = {"arguments": vars(arguments), "median": median, "agreement": agreement, "arithmetic": operations}
        arguments.output.write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")
    tolerance = 1e-4 if arguments.dtype == "float32" else 5e-2
    if max(agreement["ours"], agreement["ours, low memory"]) > tolerance:
        sys.exit("the latents do not agree: the comparison means nothing")


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
    """Seconds and peak bytes above the loaded weights of one run; its latents go to a file."""
    pipe = pipeline(arguments, arguments.run)
    call = call_arguments(arguments)
    if arguments.device.startswith("cuda"):
        generate(pipe, arguments, call)  # kernels are chosen in a first run
        torch.cuda.synchronize()
    memory = PeakMemory(arguments.device)
    start = time.perf_counter()
    latents = generate(pipe, arguments, call)
    torch.save(latents.cpu(), arguments.latents)
    return {"seconds": time.perf_counter() - start, "peak_bytes": memory.peak_above_start()}


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


def pipeline(arguments: argparse.Namespace, run: str) -> StableDiffusionPipeline:
    """The pipeline of one run, with the random weights that all runs share."""
    torch.manual_seed(0)
    widths = (32, 64, 128, 128) if arguments.small else (320, 640, 1280, 1280)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=widths, cross_attention_dim=768, attention_head_dim=8, layers_per_block=2
    )
    unet.to(arguments.device, getattr(torch, arguments.dtype)).eval()
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    cls = StableDiffusionAttendAndExcitePipeline if run == "peer" else StableDiffusionPipeline
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = cls(
            vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    if run.startswith("ours"):
        pipe = AttentionControlPipeline.from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call_arguments(arguments: argparse.Namespace) -> dict:
    """What every run is called with: random text states and a seeded start."""
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(2, 1, 77, 768, generator=generator).to(arguments.device, getattr(torch, arguments.dtype))
    return {
        "prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1], "height": arguments.size,
        "width": arguments.size, "num_inference_steps": arguments.steps, "output_type": "latent",
        "generator": torch.Generator().manual_seed(2),
    }  # fmt: skip


def generate(pipe: StableDiffusionPipeline, arguments: argparse.Namespace, call: dict) -> torch.Tensor:
    """One image's latents, with the first half of the steps guided unless the run is plain."""
    guided = arguments.steps // 2
    if arguments.run == "plain":
        return pipe(**call).images
    if arguments.run == "peer":
        return pipe(
            prompt=None, token_indices=TOKENS, thresholds={}, max_iter_to_alter=guided, scale_factor=STEP_SIZE,
            attn_res=(arguments.size // 32,) * 2, **call,
        ).images  # fmt: skip
    control = AttendAndExcite(
        variant="reference", thresholds={}, step_size=STEP_SIZE, stop=guided / arguments.steps,
        resolution=arguments.size // 32,
    )  # fmt: skip
    memory = "low" if arguments.run.endswith("low memory") else "fast"
    return pipe(control=control, subjects=TOKENS, memory=memory, **call).images


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
