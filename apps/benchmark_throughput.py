"""Images per second of batch generation: batches against one by one, with and without control.

    python apps/benchmark_throughput.py --batch-size 8 --images 16

Every setting makes the same images, in turn, several times over; the rates are medians of the repetitions. On a CPU
that other work shares, compare the processor seconds per image rather than the rates. The table goes to stdout,
everything measured as JSON to --output, if that is given.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from attncontrol.batch import Job, Worker, WorkerSettings
from attncontrol.batch.rows import resolved_control
from attncontrol.images.files import write_text
from attncontrol.images.recipe import package_versions
from attncontrol.images.sampling import Sampling

PROMPTS = Path(__file__).parents[1] / "prompts" / "animals_objects.txt"


def main() -> None:
    """Reads the options, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--device", default=None, help="a GPU if there is one by default")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--control", default="attend-and-excite")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON of all that was measured")
    options = parser.parse_args()
    worker = WorkerSettings(options.model, options.dtype, options.device).load()
    results = measure(worker, options)
    print(table(results, options.batch_size))
    if options.output is None:
        return
    described = {**vars(options), "output": str(options.output), "device": str(worker.pipe.device)}
    machine = {"threads": torch.get_num_threads(), "processor": platform.processor() or platform.machine()}
    report = {"options": described, "machine": machine, "versions": package_versions(), "results": results}
    write_text(options.output, json.dumps(report, indent=1), overwrite=True)


def measure(worker: Worker, options: argparse.Namespace) -> list[dict]:
    """The rates, for no control and the chosen one, of batches of 1 and of the wanted size."""
    results = []
    for control in (None, options.control):
        jobs = make_jobs(worker, control, options.images, options.steps)
        times: dict[int, list[tuple[float, float]]] = {1: [], options.batch_size: []}
        run(worker, jobs[:2], 2)  # first calls allocate and choose kernels
        for _ in range(options.repetitions):
            for size in times:
                times[size].append(run(worker, jobs, size))
        for size, runs in times.items():
            seconds, processor = (statistics.median(values) for values in zip(*runs, strict=True))
            results.append(
                {
                    "control": control or "none",
                    "batch_size": size,
                    "images_per_second": len(jobs) / seconds,
                    "processor_seconds_per_image": processor / len(jobs),
                    "seconds_of_runs": [run_seconds for run_seconds, _ in runs],
                }
            )
    return results


def make_jobs(worker: Worker, control: str | None, images: int, steps: int) -> list[Job]:
    """Jobs of prompts of the benchmark, evenly taken."""
    prompts = [line for line in PROMPTS.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    chosen = [prompts[i * len(prompts) // images] for i in range(images)]
    parts = resolved_control(control, dict(worker.pipe.tuned_settings)) or None
    return [
        Job(f"job-{seed}", seed, prompt, Sampling(steps, 7.5), parts, None, None, PROMPTS.name, seed)
        for seed, prompt in enumerate(chosen)
    ]


def run(worker: Worker, jobs: list[Job], size: int) -> tuple[float, float]:
    """Seconds, and processor seconds, to make the jobs in batches of a size. Raises RuntimeError if one fails."""
    start, processor = time.perf_counter(), time.process_time()
    for i in range(0, len(jobs), size):
        for outcome in worker.make(jobs[i : i + size]):
            if outcome.made is None:
                raise RuntimeError(f"{outcome.job.prompt!r}: {outcome.reason}")
    if worker.pipe.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - processor


def table(results: list[dict], batch_size: int) -> str:
    """Markdown: images per second, and processor seconds per image, one by one and in batches, and the ratios."""
    lines = [
        f"| control | one by one | batches of {batch_size} | ratio | processor s | in batches | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for control in dict.fromkeys(result["control"] for result in results):
        single, batched = (r for r in results if r["control"] == control)
        rates = single["images_per_second"], batched["images_per_second"]
        costs = single["processor_seconds_per_image"], batched["processor_seconds_per_image"]
        lines.append(
            f"| {control} | {rates[0]:.3f} /s | {rates[1]:.3f} /s | {rates[1] / rates[0]:.2f} "
            f"| {costs[0]:.3f} | {costs[1]:.3f} | {costs[0] / costs[1]:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
