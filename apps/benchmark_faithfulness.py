"""Success on the 276 prompts of the Attend-and-Excite benchmark and on single objects, judged by the bundled oracle.

    python -m apps.benchmark_faithfulness --sample 20 --seeds 2 --output outputs/faithfulness

Every method draws the same prompts from the same noise, which differs between prompts. An image succeeds if every
named object is there, in the right colour where one is named; layout methods get a box for each object, and it must
have its centre there. Plain sampling may also draw as many images as take the time of a method's one, of which the
oracle picks the best. Results are kept image by image: the same command goes on where it stopped, and further methods,
seeds and prompts can be added.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if __package__ in (None, ""):  # started as a file: make the packages beside it importable all the same
    sys.path.insert(0, str(Path(__file__).parents[1]))

from apps.faithfulness import report
from apps.faithfulness.prompts import GUARD, KINDS, layout_for, read_list, sample
from apps.faithfulness.report import Case, draws_at_equal_seconds, extra_case, phrases
from apps.faithfulness.results import PICTURES, PLAIN, Result, ResultFile, check_settings
from attncontrol import AttentionControlPipeline, MethodSum, method_classes
from attncontrol.evaluation import oracle
from attncontrol.images.files import write_text
from attncontrol.losses.combining import control_names, control_to_json, resolve_control
from attncontrol.models import default_call, default_guidance_scale


@dataclass(frozen=True)
class Drawing:
    """How every image is drawn."""

    steps: int
    guidance_scale: float
    batch_size: int
    kept: Path | None = None  # folder for the pictures


def needs_layout(methods: MethodSum) -> bool:
    return any(method.needs_layout for _, method in methods.parts)


def noise_seed(prompt: str, seed: int) -> int:
    """Seed of the initial noise: a checksum of prompt and seed, so that the prompts of one seed do not share it."""
    return zlib.crc32(f"{seed} {prompt}".encode())


def pictures(pipe: Any, methods: MethodSum, cases: Sequence[Case], drawing: Drawing) -> list[Image.Image]:
    """One batch of images, with a box for every object if a method needs them."""
    prompts = [prompt for prompt, _ in cases]
    layouts = [layout_for(prompt, phrases(prompt)) for prompt in prompts] if needs_layout(methods) else None
    return pipe(
        prompts,
        control=methods if methods.parts else None,
        layout=layouts,
        **default_call(pipe.name_or_path)
        | {"num_inference_steps": drawing.steps, "guidance_scale": drawing.guidance_scale},
        generator=[torch.Generator().manual_seed(noise_seed(*case)) for case in cases],
    ).images


def draw(pipe: Any, name: str, methods: MethodSum, cases: Sequence[Case], drawing: Drawing) -> list[Result]:
    """One batch of images of one method, judged."""
    start = time.perf_counter()
    images = pictures(pipe, methods, cases, drawing)
    seconds = (time.perf_counter() - start) / len(cases)
    results = [
        Result(name, prompt, seed, seconds, tuple(found))
        for (prompt, seed), found in zip(cases, oracle.detect(images), strict=True)
    ]
    if drawing.kept:
        drawing.kept.mkdir(parents=True, exist_ok=True)
        for image, result in zip(images, results, strict=True):
            image.save(drawing.kept / result.picture)
    return results


def measure(
    pipe: Any,
    methods: dict[str, MethodSum],
    cases: Sequence[Case],
    drawing: Drawing,
    file: ResultFile,
    show: Progress,
) -> None:
    """Draws what is missing. Methods take turns batch by batch: a change of the machine's load meets them all."""
    task = show.add_task("images", total=len(methods) * len(cases))
    for start in range(0, len(cases), drawing.batch_size):
        batch = cases[start : start + drawing.batch_size]
        for name, method in methods.items():
            missing = [case for case in batch if (name, *case) not in file.results]
            if missing:
                file.append(draw(pipe, name, method, missing, drawing))
            show.advance(task, len(batch))


def measure_best_of(
    pipe: Any, methods: Sequence[str], cases: Sequence[Case], drawing: Drawing, file: ResultFile, show: Progress
) -> dict[int, list[str]]:
    """Draws the further plain images; returns the numbers of draws above 1, with the methods they take as long as."""
    best_of: dict[int, list[str]] = {}
    for method in methods:
        best_of.setdefault(draws_at_equal_seconds(file.results, method, cases), []).append(method)
    further = [extra_case(case, draw) for draw in range(1, max(best_of, default=1)) for case in cases]
    measure(pipe, {PLAIN: MethodSum()}, further, drawing, file, show)
    return {draws: best_of[draws] for draws in sorted(best_of) if draws > 1}


def build_report(
    results: report.Results,
    methods: dict[str, MethodSum],
    cases: dict[str, list[Case]],
    guard: list[Case],
    best_of: dict[int, list[str]],
) -> dict[str, Any]:
    """Tables over all prompts and per kind; methods with a layout in tables of their own, beside plain sampling."""
    free = [name for name, method in methods.items() if not needs_layout(method)]
    bound = [PLAIN, *(name for name, method in methods.items() if needs_layout(method))]
    groups = {"all prompts": [case for part in cases.values() for case in part], **cases}
    tables = {group: report.table(results, free, part, best_of) for group, part in groups.items()}
    made = {"faithfulness": tables, "guard": {"one object": report.table(results, [*methods], guard)}}
    if len(bound) > 1:
        made["layout"] = {group: report.layout_table(results, bound, part) for group, part in groups.items()}
    return made


def markdown(tables: dict[str, Any], settings: dict[str, Any]) -> str:
    """The report for people."""
    titles = {
        "faithfulness": "Success: every named object present, in its colour where one is named",
        "layout": "Placement: every named object has its centre in its box",
        "guard": "One object: what control does where nothing is missing",
    }
    listed = ", ".join(f"{key} {value}" for key, value in settings.items())
    parts = [f"# Faithfulness\n\n{listed}. Shares in per cent; bootstrap of paired differences; p by McNemar.\n"]
    for section, groups in tables.items():
        parts.append(f"## {titles[section]}\n")
        parts += [
            f"### {group} ({rows[0]['images']} images)\n\n{report.markdown(rows)}" for group, rows in groups.items()
        ]
    return "\n".join(parts)


def read_methods(names: str | None, pipe: Any) -> dict[str, MethodSum]:
    """Plain sampling first, then the given methods, or all that need no layout. Raises ValueError for others."""
    default = [name for name, cls in method_classes().items() if not cls.needs_layout]
    chosen = [name.strip() for name in names.split(",")] if names else default
    chosen = [name for name in dict.fromkeys(chosen) if name != PLAIN]
    controls = [resolve_control(name, pipe.tuned_settings) for name in chosen]
    return {PLAIN: MethodSum(), **dict(zip(control_names(controls, chosen), controls, strict=True))}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `given` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="separated by commas; sums as in 'conform + 0.5*syngen'; default: all")
    parser.add_argument("--seeds", type=_positive, default=1, help="images per prompt")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--sample", type=_positive, help="prompts of each kind, drawn at random; default: all 276")
    parser.add_argument("--sample-seed", type=int, default=0, help="of that draw")
    parser.add_argument("--steps", type=_positive, default=30)
    parser.add_argument("--guidance-scale", type=float, help="default: the model's, 3 for the bundled one, else 7.5")
    parser.add_argument("--batch-size", type=_positive, default=8)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-best-of", action="store_true", help="leave out the best of several plain images")
    parser.add_argument("--pictures", action="store_true", help="keep the pictures, too, in a folder of --output")
    parser.add_argument("--output", type=Path, default=Path("outputs/faithfulness"))
    return parser.parse_args(given)


def weights_hash(pipe: Any) -> str:
    """A short hash of the text encoder, the denoiser and the decoder: results of other weights must not mix."""
    digest = hashlib.sha256()
    for part in (part for part in pipe.components.values() if isinstance(part, torch.nn.Module)):
        for name, tensor in part.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def file_hash(path: Path) -> str:
    """A short hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def run(args: argparse.Namespace) -> str:
    """Measures and writes the report; returns it as Markdown."""
    pipe = AttentionControlPipeline.from_pretrained(args.model).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    methods = read_methods(args.methods, pipe)
    settings = {"model": args.model, "weights": weights_hash(pipe), "oracle": file_hash(oracle.WEIGHTS)}
    guidance = default_guidance_scale(args.model) if args.guidance_scale is None else args.guidance_scale
    settings |= {"steps": args.steps, "guidance_scale": guidance}
    check_settings(args.output, settings, {name: control_to_json(method) for name, method in methods.items()})
    file = ResultFile(args.output)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    cases = {
        kind: [(prompt, seed) for prompt in sample(read_list(kind), args.sample, args.sample_seed) for seed in seeds]
        for kind in (*KINDS, GUARD)
    }
    guard = cases.pop(GUARD)
    every = [case for turn in zip_longest(*cases.values()) for case in turn if case]  # some of each kind early on
    drawing = Drawing(args.steps, guidance, args.batch_size, args.output / PICTURES if args.pictures else None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    best_of: dict[int, list[str]] = {}
    with Progress(*columns, console=Console(stderr=True)) as show:
        measure(pipe, methods, every + guard, drawing, file, show)
        if not args.no_best_of:
            free = [name for name, method in methods.items() if method.parts and not needs_layout(method)]
            best_of = measure_best_of(pipe, free, every, drawing, file, show)
    tables = build_report(file.results, methods, cases, guard, best_of)
    settings |= {"prompts": sum(map(len, cases.values())) // args.seeds, "seeds": f"{seeds[0]} to {seeds[-1]}"}
    write_text(args.output / "report.json", json.dumps({**settings, **tables}, indent=1) + "\n", overwrite=True)
    text = markdown(tables, settings)
    write_text(args.output / "report.md", text, overwrite=True)
    return text


def main() -> None:
    try:
        print(run(arguments()))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
