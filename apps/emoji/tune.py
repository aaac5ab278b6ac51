"""Try settings of a method on tuning prompts and keep the best beside the checkpoint.

    python -m apps.emoji.tune FOLDER attend-and-excite '[{"step_size": 5}, {"step_size": 20}]' --count 24

Prompts and seeds differ from the gate's as long as --seed does. `control.json` gets the settings that repair most in
balance, unless nothing beats plain sampling.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from attncontrol import AttentionControlPipeline
from attncontrol.models import resolve

from .captions import KINDS
from .gate import compare
from .judge import Outcome, generate
from .prompts import by_kind


def run(pipe: Any, count: int, seed: int, control: Any) -> list[Outcome]:
    """`count` pictures of each kind of pair."""
    prompts = by_kind(count, seed)
    return [outcome for kind in KINDS for outcome in generate(pipe, prompts[kind], seed, control=control)]


def keep(folder: Path, method: str, settings: dict[str, Any]) -> None:
    """Write the settings of one method into control.json, those of others untouched."""
    path = folder / "control.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {method: settings}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="checkpoint, or 'emoji'")
    parser.add_argument("method")
    parser.add_argument("settings", type=json.loads, help="JSON list of settings to try")
    parser.add_argument("--count", type=int, default=24, help="prompts of each kind")
    parser.add_argument("--seed", type=int, default=100_000)
    args = parser.parse_args()
    pipe = AttentionControlPipeline.from_pretrained(args.folder)
    pipe.set_progress_bar_config(disable=True)
    plain = run(pipe, args.count, args.seed, None)
    best, gain = None, 0
    for settings in args.settings:
        result = compare(plain, run(pipe, args.count, args.seed, {"method": args.method, **settings}))
        print(json.dumps({"settings": settings, **result}), flush=True)
        if result["repaired"] - result["broken"] > gain:
            best, gain = settings, result["repaired"] - result["broken"]
    if best is not None:
        keep(Path(resolve(args.folder)), args.method, best)


if __name__ == "__main__":
    main()
