"""Edits of the bundled model's pictures and of rendered scenes, judged by the bundled oracle.

    python -m apps.benchmark_editing --output outputs/editing

A scene has a coloured object and an animal, and two edits: another colour for the object, another animal. Drawn scenes
are edited without control (the new prompt from the same noise) and by prompt-to-prompt; rendered scenes are inverted
(DDIM, null text, Dynamic Prompt Learning) and then edited by prompt-to-prompt. An edit is done if the oracle sees the
new thing and no longer the old one; the rest is kept if the other thing is still there, in its colour, and its boxes
before and after have an IoU of at least 0.5. Results are kept edit by edit, inversions step by step: the same command
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if __package__ in (None, ""):  # started as a file: make the packages beside it importable all the same
    sys.path.insert(0, str(Path(__file__).parents[1]))

from apps.emoji.scenes import Thing, render
from apps.emoji.vocabulary import ANIMALS, COLOURS, OBJECTS
from attncontrol import AttentionControlPipeline
from attncontrol.editing import Inversion
from attncontrol.evaluation import oracle
from attncontrol.images.files import write_text
from attncontrol.images.visualize import labelled_grid
from attncontrol.models import default_call

DRAWN, RENDERED = ("no control", "prompt-to-prompt"), ("ddim", "null-text", "dpl")
KEPT_IOU = 0.5
SEEDS = 64  # tried for a picture that shows its scene


@dataclass(frozen=True)
class Scene:
    """A coloured object and an animal."""

    colour: str
    object: str
    animal: str

    @property
    def prompt(self) -> str:
        return f"{article(self.colour)} {self.colour} {self.object} and {article(self.animal)} {self.animal}"

    @property
    def expected(self) -> list[tuple[str, str | None]]:
        """What the oracle should see: names and colours."""
        return [(self.object, self.colour), (self.animal, None)]


@dataclass(frozen=True)
class Result:
    """One edit: whether it was done, whether the rest was kept, and the IoU of the other thing's boxes (0 if gone).

    `psnr` is that of the reconstruction, in dB, None for drawn scenes.
    """

    method: str
    prompt: str
    target: str
    done: bool
    kept: bool
    iou: float
    psnr: float | None


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def make_scenes(count: int, seed: int) -> list[tuple[Scene, list[Scene]]]:
    """Different scenes with their two edits each."""
    rng = np.random.default_rng(seed)
    made: dict[Scene, list[Scene]] = {}
    while len(made) < count:
        colours, animals = rng.permutation(list(COLOURS))[:2], rng.permutation(ANIMALS)[:2]
        scene = Scene(str(colours[0]), str(rng.choice(OBJECTS)), str(animals[0]))
        made[scene] = [replace(scene, colour=str(colours[1])), replace(scene, animal=str(animals[1]))]
    return list(made.items())


def judge(before: Image.Image, after: Image.Image, scene: Scene, target: Scene) -> tuple[bool, bool, float]:
    """Whether the edit was done, whether the rest was kept, and the IoU of the rest's boxes."""
    seen = [oracle.detect(image)[0] for image in (before, after)]
    (changed, new), (rest, _) = zip(scene.expected, target.expected, strict=True)
    if changed == new:
        (rest, _), (changed, new) = zip(scene.expected, target.expected, strict=True)
    gone = not matching(seen[1], changed)
    old, still = (matching(found, rest) for found in seen)
    iou = max((intersection_over_union(a.box, b.box) for a in old for b in still), default=0.0)
    return bool(matching(seen[1], new)) and gone, iou >= KEPT_IOU, iou


def matching(found: Sequence[oracle.Detection], thing: tuple[str, str | None]) -> list[oracle.Detection]:
    """The detections of an object in a colour; without one in its own."""
    name, colour = thing
    return [d for d in found if d.object == name and d.colour == colour]


def intersection_over_union(a: Sequence[float], b: Sequence[float]) -> float:
    """Of two xyxy boxes, 0..1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / max(1e-9, areas - shared)


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of bytes, in dB."""
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


class Bench:
    """Draws, inverts, edits and judges; keeps results and pictures in a folder."""

    def __init__(self, pipe: Any, folder: Path, sampling: dict[str, Any]) -> None:
        self.pipe, self.folder, self.sampling = pipe, folder, sampling
        self._sources: dict[Scene, tuple[int, Image.Image]] = {}
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        self.file = folder / "results.jsonl"
        text = self.file.read_text() if self.file.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a line cut off by a crash is made again
        if whole != text:
            os.truncate(self.file, len(whole.encode()))
        self.results = {key(r): r for r in (Result(**json.loads(line)) for line in whole.splitlines())}

    def measure(self, method: str, number: int, scene: Scene, targets: Sequence[Scene]) -> None:
        """The edits of one scene by one method that are missing."""
        missing = [t for t in targets if (method, scene.prompt, t.prompt) not in self.results]
        if not missing:
            return
        before, draw, quality = (self.drawn if method in DRAWN else self.inverted)(method, number, scene)
        before.save(self.picture(method, number, "before"))
        for target in missing:
            after = draw(target.prompt)
            after.save(self.picture(method, number, str(targets.index(target))))
            self.append(Result(method, scene.prompt, target.prompt, *judge(before, after, scene, target), quality))

    def drawn(self, method: str, number: int, scene: Scene) -> tuple[Image.Image, Callable, None]:
        """The picture of the first seed that shows the scene, and what edits it."""
        seed, before = self.first_right(scene)

        def edit(prompt: str) -> Image.Image:
            if method == DRAWN[0]:
                return self.plain(prompt, seed)
            return self.pipe.edit(scene.prompt, prompt, seed=seed, **self.sampling).images[0]

        return before, edit, None

    def plain(self, prompt: str, seed: int) -> Image.Image:
        """A picture without control."""
        return self.pipe(prompt, generator=torch.Generator().manual_seed(seed), **self.sampling).images[0]

    def first_right(self, scene: Scene) -> tuple[int, Image.Image]:
        """A seed and its picture. Raises ValueError if no seed shows the scene."""
        for seed in range(SEEDS) if scene not in self._sources else ():
            image = self.plain(scene.prompt, seed)
            found = oracle.detect(image)[0]
            if all(matching(found, thing) for thing in scene.expected):
                self._sources[scene] = seed, image
                break
        if scene not in self._sources:
            raise ValueError(f"none of {SEEDS} seeds shows {scene.prompt!r}")
        return self._sources[scene]

    def inverted(self, method: str, number: int, scene: Scene) -> tuple[Image.Image, Callable, float]:
        """A rendered scene, what edits its inversion, and the quality of the reconstruction."""
        things = [Thing(name, colour) for name, colour in scene.expected]
        before = Image.fromarray(render(np.random.default_rng(number), things)[0])
        path = self.folder / "inversions" / f"{number:02}_{method}.safetensors"
        inversion: Inversion = self.pipe.invert(before, scene.prompt, method, path=path, **self.sampling)
        again = self.pipe.reconstruct(inversion).images[0]
        again.save(self.picture(method, number, "reconstruction"))
        return before, lambda prompt: self.pipe.edit(inversion, prompt).images[0], psnr(before, again)

    def picture(self, method: str, number: int, what: str) -> Path:
        return self.folder / "pictures" / f"{number:02}_{method.replace(' ', '-')}_{what}.png"

    def append(self, result: Result) -> None:
        """Adds a result and has it on the disk before it returns."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.results[key(result)] = result


def key(result: Result) -> tuple[str, str, str]:
    return result.method, result.prompt, result.target


NAMES = {"ddim": "DDIM + prompt-to-prompt", "null-text": "null text + prompt-to-prompt",
         "dpl": "Dynamic Prompt Learning + prompt-to-prompt"}  # fmt: skip


def table(results: Sequence[Result]) -> Iterator[str]:
    """Markdown: a row per method."""
    yield "| pictures | edited by | edits | done | rest kept | both | IoU of the rest | reconstruction |"
    yield "|---|---|---|---|---|---|---|---|"
    for method in (*DRAWN, *RENDERED):
        rows = [result for result in results if result.method == method]
        if not rows:
            continue
        shares = [np.mean(values) for values in zip(*((r.done, r.kept, r.done and r.kept) for r in rows), strict=True)]
        quality = [r.psnr for r in rows if r.psnr is not None]
        yield (
            f"| {'drawn' if method in DRAWN else 'rendered'} | {NAMES.get(method, method)} | {len(rows)} | "
            + " | ".join(f"{share:.0%}" for share in shares)
            + f" | {np.mean([r.iou for r in rows]):.2f} | {f'{np.mean(quality):.1f} dB' if quality else ''} |"
        )


def sheet(
    bench: Bench, method: str, scenes: Sequence[tuple[Scene, list[Scene]]], count: int = 8
) -> Image.Image | None:
    """Before and after of the first scenes, to look at."""
    rows, titles = [], []
    for number, (scene, targets) in enumerate(scenes[:count]):
        files = [bench.picture(method, number, what) for what in ("before", "0", "1")]
        if all(file.exists() for file in files):
            rows.append(
                [Image.open(file).convert("RGB").resize((128, 128), Image.Resampling.NEAREST) for file in files]
            )
            titles.append(f"{scene.colour} {scene.object}, {scene.animal}: {targets[0].colour}, {targets[1].animal}")
    return labelled_grid(rows, row_titles=titles, column_titles=["before", "colour", "animal"]) if rows else None


def run(args: argparse.Namespace) -> str:
    """Measures and writes the report; returns it as Markdown."""
    pipe = AttentionControlPipeline.from_pretrained(args.model).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    sampling = {"guidance_scale": 7.5} | default_call(pipe.name_or_path) | {"num_inference_steps": args.steps}
    scenes = make_scenes(args.edits // 2, args.seed)
    bench = Bench(pipe, args.output, sampling)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as show:
        task = show.add_task("scenes", total=len(scenes) * len(args.methods))
        for number, (scene, targets) in enumerate(scenes):
            for method in args.methods:
                bench.measure(method, number, scene, targets)
                show.advance(task)
    wanted = {(scene.prompt, target.prompt) for scene, targets in scenes for target in targets}
    text = "\n".join(table([r for r in bench.results.values() if (r.prompt, r.target) in wanted])) + "\n"
    write_text(args.output / "report.md", text, overwrite=True)
    for method in args.methods:
        if (picture := sheet(bench, method, scenes)) is not None:
            picture.quantize(192).save(args.output / f"{method.replace(' ', '-')}.png", optimize=True)
    return text


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `given` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=(*DRAWN, *RENDERED), default=[*DRAWN, *RENDERED])
    parser.add_argument("--edits", type=int, default=60, help="two a scene")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of scenes")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("outputs/editing"))
    return parser.parse_args(given)


def main() -> None:
    try:
        print(run(arguments()))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
