"""Try settings of methods on tuning prompts and keep the best of each beside the checkpoint, in control.json.

    python -m apps.emoji.tune FOLDER CANDIDATES.json --count 16

CANDIDATES.json maps a method, or a preset, to {"goal": "present" | "right" | "placed", "settings": [...]}; a preset's
settings are lists of parts. Prompts and seeds are others than the gate's and the benchmark's. The setting that repairs
most in balance is kept, of those that spoil few one-object pictures, where nothing is to be repaired; none, if nothing
beats plain sampling.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.benchmark_faithfulness import Sampling, draw
from apps.faithfulness.report import faithful, placed, present
from apps.faithfulness.results import PLAIN, Result
from attncontrol import AttentionControlPipeline, MethodSum
from attncontrol.evaluation.statistics import PairedComparison, compare_paired
from attncontrol.losses.combining import resolve_control
from attncontrol.models import default_call, resolve, tuned_settings

from .captions import KINDS
from .judge import BATCH
from .prompts import Prompt, one_object, pairs

GOALS: dict[str, Callable[[Result], bool]] = {"present": present, "right": faithful, "placed": placed}
SEED = 100_000
ONE_OBJECT = 96  # pictures, enough to tell a loss of SPOILT from none
SPOILT = 0.03  # highest share of them that a setting may lose


@dataclass(frozen=True)
class Trial:
    """Pictures to judge settings by, as (prompt, seed), and what plain sampling makes of them."""

    cases: list[tuple[str, int]]
    plain: list[Result]

    def compare(self, pictures: list[Result], goal: str) -> PairedComparison:
        success = GOALS[goal]
        return compare_paired(list(map(success, self.plain)), list(map(success, pictures)))


def trial(pipe: Any, prompts: list[Prompt]) -> Trial:
    cases = [(text, SEED + index) for index, (text, _) in enumerate(prompts)]
    return Trial(cases, run(pipe, MethodSum(), cases))


def run(pipe: Any, methods: MethodSum, cases: list[tuple[str, int]]) -> list[Result]:
    """One picture per case, judged."""
    call = default_call(pipe.name_or_path)
    sampling = Sampling(call["num_inference_steps"], call["guidance_scale"], BATCH)
    parts = [cases[start : start + BATCH] for start in range(0, len(cases), BATCH)]
    return [result for part in parts for result in draw(pipe, PLAIN, methods, part, sampling)]


def keep(folder: Path, method: str, settings: Any) -> None:
    """Write the settings of one method or preset into control.json, those of others untouched."""
    path = folder / "control.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(dict(sorted((known | {method: settings}).items())), indent=2) + "\n")


def best(pipe: Any, name: str, goal: str, settings: list[Any], two_objects: Trial, guard: Trial) -> Any:
    """The settings with the largest gain over plain sampling that spoil little of the guard; None without a gain."""
    chosen, gain = None, 0.0
    for candidate in settings:
        methods = resolve_control(
            candidate if isinstance(candidate, list) else {"method": name, **candidate}, pipe.tuned_settings
        )
        drawn = run(pipe, methods, two_objects.cases)
        paired = two_objects.compare(drawn, goal)
        lost = -guard.compare(run(pipe, methods, guard.cases), "right").difference
        line = {name: candidate, "repaired": paired.repaired, "broken": paired.broken, "spoilt": round(lost, 3)}
        print(json.dumps(line | shares(drawn)), flush=True)
        if paired.difference > gain and lost <= SPOILT:
            chosen, gain = candidate, paired.difference
    return chosen


def shares(pictures: list[Result]) -> dict[str, float]:
    """How often each goal is reached."""
    return {goal: round(sum(map(success, pictures)) / len(pictures), 3) for goal, success in GOALS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="checkpoint, or 'emoji'")
    parser.add_argument("candidates", type=Path, help="JSON file")
    parser.add_argument("--count", type=int, default=16, help="prompts of each kind of pair")
    args = parser.parse_args()
    pipe = AttentionControlPipeline.from_pretrained(args.folder)
    pipe.set_progress_bar_config(disable=True)
    two_objects = trial(pipe, [prompt for kind in KINDS for prompt in pairs(kind, args.count, SEED)])
    guard = trial(pipe, one_object(ONE_OBJECT, SEED))
    print(json.dumps({PLAIN: shares(two_objects.plain), "one object": shares(guard.plain)["right"]}), flush=True)
    for name, tried in json.loads(args.candidates.read_text()).items():
        settings = best(pipe, name, tried["goal"], tried["settings"], two_objects, guard)
        if settings is not None:
            keep(Path(resolve(args.folder)), name, settings)
            pipe.tuned_settings = tuned_settings(resolve(args.folder))


if __name__ == "__main__":
    main()
