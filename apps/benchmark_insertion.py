"""Insertions into the bundled FLUX's pictures, judged by the bundled oracle.

    python -m apps.benchmark_insertion --output outputs/insertion

A scene has an animal or a coloured object, and the other kind is inserted. It is drawn with the first seed that shows
it. "plain" is the prompt with both from the scene's seed, "insertion" is `pipe.insert`, "inverted" inserts into the
scene's picture as if it were yours. A thing is inserted if the oracle sees it in its colour; the scene is kept if its
thing is still there, in its colour, and the boxes before and after have an IoU of at least 0.5. What the oracle saw is
kept picture by picture: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

if __package__ in (None, ""):  # started as a file: make the packages beside it importable all the same
    sys.path.insert(0, str(Path(__file__).parents[1]))

from apps.benchmark_editing import article, intersection_over_union, matching
from apps.emoji.vocabulary import ANIMALS, COLOURS, OBJECTS
from apps.faithfulness.results import Result, ResultFile, check_settings
from attncontrol import AttentionControlPipeline
from attncontrol.evaluation import oracle
from attncontrol.images.files import write_text
from attncontrol.images.visualize import labelled_grid
from attncontrol.insertion.arguments import read_settings
from attncontrol.models import default_call

SCENE, PLAIN, INSERTION, INVERTED = METHODS = ("scene", "plain", "insertion", "inverted")
KEPT_IOU = 0.5
SEEDS = 16  # tried for a picture that shows its scene


@dataclass(frozen=True)
class Task:
    """A thing to draw and one to insert, as the oracle names them."""

    number: int
    old: tuple[str, str | None]
    new: tuple[str, str | None]

    @property
    def prompt(self) -> str:
        return phrase(self.old)

    @property
    def thing(self) -> str:
        return phrase(self.new)

    @property
    def target(self) -> str:
        return f"{self.prompt} and {self.thing}"


def phrase(thing: tuple[str, str | None]) -> str:
    """A thing with its article: "a red car"."""
    words = " ".join(word for word in (thing[1], thing[0]) if word)
    return f"{article(words)} {words}"


def make_tasks(count: int, seed: int) -> list[Task]:
    """Different insertions, by turns of an animal beside an object and of an object beside an animal."""
    rng = np.random.default_rng(seed)
    made: dict[tuple[Any, Any], Task] = {}
    while len(made) < count:
        animal = str(rng.choice(ANIMALS)), None
        thing = str(rng.choice(OBJECTS)), str(rng.choice(list(COLOURS)))
        pair = (thing, animal) if len(made) % 2 == 0 else (animal, thing)
        made.setdefault(pair, Task(len(made), *pair))
    return list(made.values())


@dataclass(frozen=True)
class Verdict:
    """Whether the new thing is there, whether the old one is kept in place, and the IoU of its boxes (0 if gone)."""

    inserted: bool
    kept: bool
    iou: float


def judge(before: Sequence[oracle.Detection], after: Sequence[oracle.Detection], task: Task) -> Verdict:
    """What became of a scene."""
    old, still = (matching(found, task.old) for found in (before, after))
    iou = max((intersection_over_union(a.box, b.box) for a in old for b in still), default=0.0)
    return Verdict(bool(matching(after, task.new)), iou >= KEPT_IOU, iou)


class Bench:
    """Draws, inserts and looks; keeps what the oracle saw, and the pictures, in a folder."""

    def __init__(self, pipe: Any, folder: Path) -> None:
        self.pipe, self.folder, self.file = pipe, folder, ResultFile(folder)
        (folder / "pictures").mkdir(exist_ok=True)

    def measure(self, task: Task, method: str) -> None:
        """One task by one method, if it is missing; first of all its scene."""
        seed = self.seed(task)
        if (method, task.target, seed) in self.file.results:
            return
        start = time.perf_counter()
        if method == PLAIN:
            generator = torch.Generator().manual_seed(seed)
            image = self.pipe(task.target, generator=generator, **default_call(self.pipe.name_or_path)).images[0]
        else:
            scene = Image.open(self.picture(task, SCENE))
            image = self.pipe.insert(scene, task.thing, prompt=task.prompt, seed=seed).images[0]
        self.keep(task, method, task.target, seed, image, time.perf_counter() - start)

    def seed(self, task: Task) -> int:
        """The first seed, from the task's number on, that shows the scene. Raises ValueError if none does.

        A scene and the insertion into it are drawn by one call.
        """
        for seed in range(task.number, task.number + SEEDS):
            known = self.file.results.get((SCENE, task.prompt, seed))
            if known is None:
                start = time.perf_counter()
                drawn = self.pipe.insert(task.prompt, task.thing, seed=seed)
                seconds = time.perf_counter() - start
                self.keep(task, INSERTION, task.target, seed, drawn.images[0], seconds)
                known = self.keep(task, SCENE, task.prompt, seed, drawn.sources[0], seconds)
            if matching(known.detections, task.old):
                return seed
        raise ValueError(f"none of {SEEDS} seeds shows {task.prompt!r}")

    def keep(self, task: Task, method: str, prompt: str, seed: int, image: Image.Image, seconds: float) -> Result:
        image.save(self.picture(task, method))
        result = Result(method, prompt, seed, seconds, tuple(oracle.detect(image)[0]))
        self.file.append([result])
        return result

    def picture(self, task: Task, method: str) -> Path:
        return self.folder / "pictures" / f"{task.number:02}_{method}.png"

    def verdicts(self, tasks: Sequence[Task], method: str) -> list[Verdict]:
        """Of the tasks that are done."""
        found = []
        for task in tasks:
            for seed in range(task.number, task.number + SEEDS):
                scene = self.file.results.get((SCENE, task.prompt, seed))
                after = self.file.results.get((method, task.target, seed))
                if scene and after and matching(scene.detections, task.old):
                    found.append(judge(scene.detections, after.detections, task))
                    break
        return found


NAMES = {PLAIN: "no control, same seed", INSERTION: "insertion into the drawn scene", INVERTED: "inversion, insertion"}


def table(bench: Bench, tasks: Sequence[Task]) -> Iterator[str]:
    """Markdown: a row per method."""
    yield "| drawn by | insertions | new thing there | old one kept in place | both | IoU of the old one |"
    yield "|---|---|---|---|---|---|"
    for method, name in NAMES.items():
        rows = bench.verdicts(tasks, method)
        if rows:
            shares = [np.mean(share) for share in zip(*((r.inserted, r.kept, r.inserted and r.kept) for r in rows),
                                                      strict=True)]  # fmt: skip
            cells = [f"{share:.0%}" for share in shares] + [f"{np.mean([r.iou for r in rows]):.2f}"]
            yield f"| {name} | {len(rows)} | {' | '.join(cells)} |"


def sheet(bench: Bench, tasks: Sequence[Task], methods: Sequence[str], count: int = 8) -> Image.Image | None:
    """The first tasks, a row each, to look at."""
    rows, titles = [], []
    for task in tasks[:count]:
        files = [bench.picture(task, method) for method in (SCENE, *methods)]
        if all(file.exists() for file in files):
            rows.append([Image.open(file).convert("RGB") for file in files])
            titles.append(f"{task.prompt} + {task.thing}")
    return labelled_grid(rows, row_titles=titles, column_titles=[SCENE, *methods]) if rows else None


def run(args: argparse.Namespace) -> str:
    """Measures and writes the report; returns it as Markdown."""
    pipe = AttentionControlPipeline.from_pretrained(args.model).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    used = {INSERTION: read_settings(pipe, None, False).to_json(), INVERTED: read_settings(pipe, None, True).to_json()}
    common = {"model": args.model, "device": args.device, "seed": args.seed}
    check_settings(args.output, common, {method: used.get(method, {}) for method in args.methods})
    tasks, bench = make_tasks(args.insertions, args.seed), Bench(pipe, args.output)
    for task in track(tasks, "insertions", console=Console(stderr=True)):
        for method in args.methods:
            bench.measure(task, method)
    text = "\n".join(table(bench, tasks)) + "\n"
    write_text(args.output / "report.md", text, overwrite=True)
    if (picture := sheet(bench, tasks, args.methods)) is not None:
        picture.save(args.output / "insertions.png")
    return text


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `given` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS[1:], default=list(METHODS[1:]))
    parser.add_argument("--insertions", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of scenes")
    parser.add_argument("--model", default="emoji-flux")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("outputs/insertion"))
    return parser.parse_args(given)


def main() -> None:
    try:
        print(run(arguments()))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
