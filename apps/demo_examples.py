"""Chooses the demo's examples by measurement: `python -m apps.demo_examples`.

With --pictures it only draws those that are in examples.json, plain and with control, and keeps their attention maps
and recipes, for the page to show at once.

Every candidate, a prompt with a method, is drawn plain and with control on the same seeds, and the oracle judges both.
Of each kind (objects, colours, boxes) the candidates that gain most are kept, each with the first seed where plain
sampling fails and control succeeds; kinds without such a seed are left out. A candidate with boxes succeeds where
every object also has its centre in its box, as in `apps.benchmark_faithfulness`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attncontrol.cli.loading import load_pipeline
from attncontrol.demo import examples as stored
from attncontrol.demo import verdicts
from attncontrol.demo.result_view import sheet_of
from attncontrol.demo.widgets import boxes_of
from attncontrol.families import family_of
from attncontrol.images.drawing import Drawn, Request, draw
from attncontrol.images.files import write_text
from attncontrol.images.recipe import package_versions
from attncontrol.images.sampling import Sampling
from attncontrol.layout import automatic_layout
from attncontrol.losses import method_classes
from attncontrol.losses.combining import resolve_control
from attncontrol.models import BUNDLED, DEFAULT_MODEL, default_guidance_scale, default_steps
from attncontrol.prompt import structure_of

BOXED = ("a cat and a frog", "a dog and a balloon", "a bear and a red car")  # the models have no words for relations
PROMPTS = {
    "emoji": {
        "objects": ("a cat and a frog", "a bird and a suitcase", "a lion and a clock", "a dog and a bench"),
        "colours": (
            "a red crown and a blue bow",
            "a green backpack and a yellow bowl",
            "a blue car and a red balloon",
        ),
        "boxes": BOXED,
    },
    "emoji-flux": {  # things that people, too, recognise in its pictures
        "objects": ("a cat and a frog", "a monkey and a car", "a lion and a clock"),
        "colours": (
            "a red apple and a blue chair",
            "a yellow balloon and a blue car",
            "a purple clock and an orange car",
        ),
        "boxes": BOXED,
    },
}
KINDS = tuple(PROMPTS["emoji"])


@dataclass(frozen=True)
class Measured:
    """A candidate and, seed by seed, whether plain sampling and control succeeded."""

    kind: str
    prompt: str
    method: str
    plain: tuple[bool, ...]
    controlled: tuple[bool, ...]

    @property
    def gain(self) -> int:
        return sum(self.controlled) - sum(self.plain)

    @property
    def seed(self) -> int | None:
        """The first where only control succeeds."""
        pairs = enumerate(zip(self.plain, self.controlled, strict=True))
        return next((seed for seed, (before, after) in pairs if after and not before), None)

    def as_example(self) -> dict[str, Any]:
        """The entry of examples.json."""
        count = len(self.plain)
        shows = f"{self.kind}: right in {sum(self.plain)} of {count} plain, {sum(self.controlled)} with control"
        layout = {"layout": "auto"} if self.kind == "boxes" else {}
        return {"prompt": self.prompt, "method": self.method, "seed": self.seed, **layout, "shows": shows}


def success(drawn: Drawn) -> bool:
    """Whether every object is there in its colour and, with boxes, in its place."""
    return all(state == verdicts.RIGHT for _, state in states(drawn))


def states(drawn: Drawn) -> verdicts.States:
    """What became of every thing, and with boxes whether it is in its own."""
    recipe = drawn.recipe
    return verdicts.states(recipe.model, recipe.prompt, drawn.image, boxes_of(recipe.layout))


def measure(model: str, pipe: Any, methods: Sequence[str], seeds: Sequence[int]) -> list[Measured]:
    """All candidates: methods that need a layout for boxes, the others for objects and colours."""
    measured = []
    for kind, prompts in PROMPTS[model].items():
        for prompt in prompts:
            request = request_for(model, pipe, prompt, boxed=kind == "boxes")

            def successes(control: str | None, request: Request = request) -> tuple[bool, ...]:
                methods = resolve_control(control, pipe.tuned_settings)
                return tuple(success(draw(pipe, request, methods, s, lambda _: None)) for s in seeds)

            plain = successes(None)
            for name in methods:
                if method_classes()[name].needs_layout == (kind == "boxes"):
                    measured.append(Measured(kind, prompt, name, plain, successes(name)))
                    print(
                        kind, prompt, name, f"plain {sum(plain)}, control {sum(measured[-1].controlled)}", flush=True
                    )
    return measured


def draw_pictures(model: str, pipe: Any, examples: Sequence[dict[str, Any]]) -> None:
    """Writes pictures and maps of every example, and notes in it what became of its things, and its recipes."""
    for number, example in enumerate(examples):
        request = request_for(model, pipe, example["prompt"], boxed="layout" in example, maps=True)
        drawn = {}
        for side, control in (("plain", None), ("control", example["method"])):
            methods = resolve_control(control, pipe.tuned_settings)
            drawn[side] = draw(pipe, request, methods, example["seed"], lambda _: None)
            example[side] = states(drawn[side])
            drawn[side].image.save(stored.file(model, f"{number}_{side}.webp"), lossless=True)
            print(example["prompt"], side, example[side], flush=True)
        sheet = sheet_of([side.record for side in drawn.values()])
        sheet.image.save(stored.file(model, f"{number}_maps.webp"), lossless=True)
        example["maps"] = {"words": sheet.words, "peaks": sheet.peaks, "steps": sheet.steps}
        example["recipes"] = {side: dataclasses.asdict(its.recipe) for side, its in drawn.items()}


def request_for(model: str, pipe: Any, prompt: str, boxed: bool, maps: bool = False) -> Request:
    """What all pictures of a prompt share; `boxed`: the boxes of the automatic layout too."""
    layout = None
    if boxed:
        structure = structure_of(prompt, family_of(pipe).tokenizer)
        placed = zip(structure.entities, automatic_layout(structure).regions, strict=True)
        layout = {entity.text: [list(box) for box in regions] for entity, regions in placed}
    scale = default_guidance_scale(model)
    return Request(model, prompt, Sampling(default_steps(model), scale), layout=layout, layout_json=layout, maps=maps)


def choose(measured: Sequence[Measured], each: int) -> list[dict[str, Any]]:
    """The candidates that gain most, `each` of a kind, no prompt twice, losses never."""
    examples = []
    for kind in KINDS:
        useful = [m for m in measured if m.kind == kind and m.gain > 0 and m.seed is not None]
        best: dict[str, Measured] = {}
        for candidate in sorted(useful, key=lambda m: -m.gain):
            best.setdefault(candidate.prompt, candidate)
        examples += [candidate.as_example() for candidate in list(best.values())[:each]]
    return examples


def main() -> None:
    """Measures, chooses, and writes examples.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(BUNDLED), default=DEFAULT_MODEL)
    parser.add_argument("--methods", help="separated by commas; all if absent")
    parser.add_argument("--seeds", type=int, default=8, help="how many, from 0 on")
    parser.add_argument("--each", type=int, default=2, help="examples of each kind")
    parser.add_argument("--pictures", action="store_true", help="only draw the examples there are")
    arguments = parser.parse_args()
    model, file = arguments.model, stored.file(arguments.model, "examples.json")
    pipe = load_pipeline(model, "cpu", "float32")
    if arguments.pictures:
        known = json.loads(file.read_text(encoding="utf-8"))
    else:
        methods = arguments.methods.split(",") if arguments.methods else list(method_classes())
        facts = {"model": model, "seeds": arguments.seeds, "steps": default_steps(model)}
        measured = measure(model, pipe, methods, range(arguments.seeds))
        known = {"measured": {**facts, "versions": package_versions()}, "examples": choose(measured, arguments.each)}
    if not known["examples"]:
        raise SystemExit("no candidate gains anything: the examples stay as they are")
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_pictures(model, pipe, known["examples"])
    write_text(file, json.dumps(known, indent=2) + "\n", overwrite=True)


if __name__ == "__main__":
    main()
