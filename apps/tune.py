"""Try settings of methods on tuning prompts and keep the best of each beside the checkpoint, in control.json.

    python -m apps.tune emoji CANDIDATES.json
    python -m apps.tune FOLDER CANDIDATES.json --prompts PROMPTS.txt --guard ONE_OBJECT.txt --steps 50

CANDIDATES.json maps a method, or a preset, to {"goal": ..., "settings": [...]}; a preset's settings are lists of
parts. A goal is "present", "right" or "placed" as the bundled oracle sees it, or for a checkpoint that draws other
things a column of a metric: "clip_min_subject", "clip_full", "blip_caption_similarity"
(`attncontrol.evaluation.metrics`). Prompts and seeds are others than the gate's and the benchmark's:
`prompts/tuning.txt`, the n-th with seed 100,000 + n. The setting that gains most over plain sampling is kept, of those
that lose little on one-object prompts, where nothing is to be repaired; none, if nothing gains.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apps.benchmark_faithfulness import Drawing, pictures
from apps.faithfulness.prompts import GUARD, TUNING, TUNING_SEED, read_list, sample
from apps.faithfulness.report import Case, faithful, placed, present
from apps.faithfulness.results import PLAIN, Result
from attncontrol import AttentionControlPipeline, MethodSum
from attncontrol.evaluation import oracle
from attncontrol.evaluation.metrics import Metric, Picture, create_metric
from attncontrol.evaluation.statistics import bootstrap_interval
from attncontrol.images.files import write_text
from attncontrol.losses.combining import resolve_control
from attncontrol.models import default_call, default_guidance_scale, resolve, tuned_settings

SPOILT = 0.03  # highest share of the one-object prompts' score that a setting may lose
BATCH = 16
GOALS: dict[str, Callable[[Result], bool]] = {"present": present, "right": faithful, "placed": placed}

Scores = dict[str, list[float]]
"""By goal, one number per picture: 1 or 0 from the oracle, a similarity from others."""


@dataclass(frozen=True)
class Judge:
    """Scores pictures: by the oracle if there is no metric."""

    metric: Metric | None = None

    @property
    def guard(self) -> str:
        """What may not be lost on one-object prompts."""
        return "right" if self.metric is None else next(iter(self.metric.columns))

    def score(self, cases: list[Case], images: list[Image.Image]) -> Scores:
        """Raises ValueError for a prompt that has no score."""
        if self.metric is None:
            found = [Result("", *case, 0.0, tuple(d)) for case, d in zip(cases, oracle.detect(images), strict=True)]
            return {goal: [float(reached(result)) for result in found] for goal, reached in GOALS.items()}
        rows = self.metric.score([Picture(image, prompt) for (prompt, _), image in zip(cases, images, strict=True)])
        for (prompt, _), row in zip(cases, rows, strict=True):
            if absent := [column for column in self.metric.columns if row[column] is None]:
                raise ValueError(f"the prompt {prompt!r} has no {absent[0]}: leave it out of the tuning prompts")
        return {column: [float(row[column] or 0) for row in rows] for column in self.metric.columns}


@dataclass(frozen=True)
class Trial:
    """Pictures to judge settings by, and what plain sampling makes of them."""

    cases: list[Case]
    plain: Scores

    def gain(self, scores: Scores, goal: str) -> tuple[float, float, float]:
        """Mean difference to plain sampling on the same noise and its 95% interval."""
        difference = np.subtract(scores[goal], self.plain[goal])
        return (float(difference.mean()), *bootstrap_interval(difference))


@dataclass(frozen=True)
class Tuning:
    """One pipeline, how it samples, who judges, and on what."""

    pipe: Any
    drawing: Drawing
    judge: Judge

    def trial(self, prompts: list[str], count: int | None) -> Trial:
        cases = [(prompt, TUNING_SEED + number) for number, prompt in enumerate(prompts)]
        kept = set(sample(prompts, count))
        cases = [case for case in cases if case[0] in kept]
        return Trial(cases, self.run(MethodSum(), cases))

    def run(self, methods: MethodSum, cases: list[Case]) -> Scores:
        """One picture per case, judged."""
        scores: Scores = {}
        for start in range(0, len(cases), BATCH):
            part = cases[start : start + BATCH]
            for goal, values in self.judge.score(part, pictures(self.pipe, methods, part, self.drawing)).items():
                scores.setdefault(goal, []).extend(values)
        return scores

    def best(self, name: str, goal: str, settings: list[Any], prompts: Trial, guard: Trial) -> Any:
        """The settings of largest gain that lose little of the guard; None without a gain."""
        chosen, most = None, 0.0
        for candidate in settings:
            methods = read_candidate(name, candidate, self.pipe.tuned_settings)
            scores = self.run(methods, prompts.cases)
            gain, low, high = prompts.gain(scores, goal)
            lost = -guard.gain(self.run(methods, guard.cases), self.judge.guard)[0]
            line = {name: candidate, "goal": goal, "gain": round(gain, 4), "interval": [round(low, 4), round(high, 4)]}
            print(json.dumps(line | {"lost on one object": round(lost, 4)} | means(scores)), flush=True)
            if gain > most and lost <= SPOILT * abs(float(np.mean(guard.plain[self.judge.guard]))):
                chosen, most = candidate, gain
        return chosen


def read_candidate(name: str, candidate: Any, tuned: dict[str, Any]) -> MethodSum:
    """A method in candidate settings, or a preset's list of parts, beside what is tuned already."""
    return resolve_control(candidate if isinstance(candidate, list) else {"method": name, **candidate}, tuned)


def means(scores: Scores) -> dict[str, float]:
    return {goal: round(float(np.mean(values)), 4) for goal, values in scores.items()}


def keep(folder: Path, method: str, settings: Any) -> None:
    """Write the settings of one method or preset into control.json, those of others untouched."""
    path = folder / "control.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    text = json.dumps(dict(sorted((known | {method: settings}).items())), indent=2) + "\n"
    write_text(path, text, overwrite=True)


def read_candidates(path: Path) -> tuple[dict[str, Any], str | None]:
    """The candidates, and the metric that their goals name (None: the oracle). Raises ValueError for others."""
    try:
        candidates = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {str(path)!r}: {error}") from error
    wellformed = isinstance(candidates, dict) and all(
        isinstance(tried, dict) and tried.keys() == {"goal", "settings"} for tried in candidates.values()
    )
    if not wellformed:
        raise ValueError(f'{str(path)!r} must map methods to {{"goal": ..., "settings": [...]}}')
    metrics = {None if tried["goal"] in GOALS else tried["goal"].split("_")[0] for tried in candidates.values()}
    if len(metrics) != 1:
        raise ValueError(f"{str(path)!r} has goals of several judges: tune for one at a time")
    return candidates, metrics.pop()


def lines(path: Path) -> list[str]:
    """The prompts of a file, one a line, without comments."""
    return read_list(path.stem, path.parent)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line, or `given` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a bundled model's name, or a checkpoint's folder")
    parser.add_argument("candidates", type=Path, help="JSON file")
    parser.add_argument("--count", type=int, help="tuning prompts, drawn at random; default: all")
    parser.add_argument("--prompts", type=Path, help="tuning prompts; default: prompts/tuning.txt")
    parser.add_argument("--guard", type=Path, help="one-object prompts; default: prompts/one_object.txt")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance-scale", type=float, help="default: the model's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clip-model", help="for CLIP goals")
    return parser.parse_args(given)


def tune(args: argparse.Namespace) -> None:
    """Tries all candidates and writes what is best."""
    candidates, metric = read_candidates(args.candidates)
    judge = Judge(create_metric(metric, device=args.device, clip_model=args.clip_model) if metric else None)
    pipe = AttentionControlPipeline.from_pretrained(args.model).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    scale = default_guidance_scale(args.model) if args.guidance_scale is None else args.guidance_scale
    steps = default_call(args.model).get("num_inference_steps", args.steps)
    tuning = Tuning(pipe, Drawing(steps, scale, BATCH), judge)
    prompts = tuning.trial(lines(args.prompts) if args.prompts else read_list(TUNING), args.count)
    guard = tuning.trial(lines(args.guard) if args.guard else read_list(GUARD), args.count)
    print(json.dumps({PLAIN: means(prompts.plain), "one object": means(guard.plain)}), flush=True)
    for name, tried in candidates.items():
        settings = tuning.best(name, tried["goal"], tried["settings"], prompts, guard)
        if settings is not None:
            keep(Path(resolve(args.model)), name, settings)
            pipe.tuned_settings = tuned_settings(resolve(args.model))


def main() -> None:
    try:
        tune(arguments())
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
