"""Try settings of methods on tuning prompts and keep the best of each beside the checkpoint, in control.json.

    python -m apps.emoji.tune FOLDER CANDIDATES.json --count 16

CANDIDATES.json maps a method, or a preset, to {"goal": "present" | "right" | "placed", "settings": [...]}; a preset's
settings are lists of parts. Prompts and seeds are others than the gate's and the benchmark's. The setting that repairs
most in balance is kept; none, if nothing beats plain sampling.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apps.benchmark_faithfulness import Sampling, draw
from apps.faithfulness.report import faithful, placed, present
from apps.faithfulness.results import PLAIN, Result
from attncontrol import AttentionControlPipeline, MethodSum
from attncontrol.control import resolve_control
from attncontrol.evaluation.statistics import compare_paired
from attncontrol.models import resolve, tuned_settings

from .captions import KINDS
from .judge import BATCH, GUIDANCE, STEPS
from .prompts import pairs

GOALS: dict[str, Callable[[Result], bool]] = {"present": present, "right": faithful, "placed": placed}
SEED = 100_000


def run(pipe: Any, methods: MethodSum, cases: list[tuple[str, int]]) -> list[Result]:
    """One picture per case, judged."""
    parts = [cases[start : start + BATCH] for start in range(0, len(cases), BATCH)]
    return [result for part in parts for result in draw(pipe, PLAIN, methods, part, Sampling(STEPS, GUIDANCE, BATCH))]


def keep(folder: Path, method: str, settings: Any) -> None:
    """Write the settings of one method or preset into control.json, those of others untouched."""
    path = folder / "control.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(dict(sorted((known | {method: settings}).items())), indent=2) + "\n")


def best(pipe: Any, name: str, goal: str, settings: list[Any], cases: list, plain: list[Result]) -> Any:
    """The settings with the largest gain over plain sampling, None without a gain."""
    chosen, gain = None, 0.0
    before = [GOALS[goal](result) for result in plain]
    for candidate in settings:
        if isinstance(candidate, list):
            methods = resolve_control(candidate, pipe.tuned_settings)
        else:
            methods = resolve_control({"method": name, **candidate})
        after = run(pipe, methods, cases)
        paired = compare_paired(before, [GOALS[goal](result) for result in after])
        shares = {key: round(sum(map(count, after)) / len(after), 3) for key, count in GOALS.items()}
        print(
            json.dumps({name: candidate, "repaired": paired.repaired, "broken": paired.broken, **shares}), flush=True
        )
        if paired.difference > gain:
            chosen, gain = candidate, paired.difference
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="checkpoint, or 'emoji'")
    parser.add_argument("candidates", type=Path, help="JSON file")
    parser.add_argument("--count", type=int, default=16, help="prompts of each kind")
    args = parser.parse_args()
    pipe = AttentionControlPipeline.from_pretrained(args.folder)
    pipe.set_progress_bar_config(disable=True)
    prompts = [text for kind in KINDS for text, _ in pairs(kind, args.count, SEED)]
    cases = [(text, SEED + index) for index, text in enumerate(prompts)]
    plain = run(pipe, MethodSum(), cases)
    print(json.dumps({PLAIN: {key: round(sum(map(count, plain)) / len(plain), 3) for key, count in GOALS.items()}}))
    for name, tried in json.loads(args.candidates.read_text()).items():
        settings = best(pipe, name, tried["goal"], tried["settings"], cases, plain)
        if settings is not None:
            keep(Path(resolve(args.folder)), name, settings)
            pipe.tuned_settings = tuned_settings(resolve(args.folder))


if __name__ == "__main__":
    main()
