"""The gate for shipping: is the model good, does it fail as wanted, and can it be steered through its words?

    python -m apps.emoji.gate FOLDER --count 300 --seed 500000 --output gate.json

About an hour on one CPU core. With 100 prompts of a kind the AUC was .70 where 300 made it .80. Every figure is by the
oracle, at the checkpoint's own number of steps. Prompts and seeds must be others than those used for tuning.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attncontrol import AttentionControlPipeline
from attncontrol.evaluation.statistics import compare_paired

from .captions import KINDS
from .judge import Outcome, generate, rates, save, text_states
from .prompts import Prompt, by_kind, pairs
from .vocabulary import NAMES

SLOT_PROMPTS = 50  # prompts of a kind in the slot test


def auc(values: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive has the higher value; NaN where one class is empty."""
    high, low = values[positive], values[~positive]
    if not len(high) or not len(low):
        return float("nan")
    return float(((high[:, None] > low).mean() + (high[:, None] >= low).mean()) / 2)


def attention_auc(outcomes: list[Outcome]) -> float:
    """AUC of a word's maximum attention in the first quarter of plain sampling for the presence of its object."""
    peaks = np.array([peak for outcome in outcomes for peak in outcome.peaks])
    return auc(peaks, np.array([value for outcome in outcomes for value in outcome.verdict.present]))


class Neutral:
    """Replaces text slots by those of the empty prompt: the object words, or the end of text and the padding."""

    def __init__(self, pipe: Any, which: str) -> None:
        self.tokenizer, self.which = getattr(pipe, "tokenizer_2", pipe.tokenizer), which
        self.empty = text_states(pipe, [""])[0][0]
        self.objects = [ids[0] for ids in self.tokenizer([*NAMES], add_special_tokens=False).input_ids]

    def __call__(self, states: torch.Tensor, texts: list[str]) -> torch.Tensor:
        slots = len(self.empty)
        tokens = self.tokenizer(texts, padding="max_length", max_length=slots, return_tensors="pt").input_ids
        ends = [self.tokenizer.eos_token_id, self.tokenizer.pad_token_id]
        mask = torch.isin(tokens, torch.tensor(self.objects if self.which == "objects" else ends))
        return torch.where(mask[..., None].to(states.device), self.empty, states)


def compare(plain: list[Outcome], controlled: list[Outcome]) -> dict[str, Any]:
    """Paired success (all objects present): repaired, broken, and the exact McNemar p."""
    before, after = ([outcome.verdict.all_present for outcome in arm] for arm in (plain, controlled))
    paired = compare_paired(before, after)
    return {
        "plain": round(float(np.mean(before)), 4),
        "controlled": round(float(np.mean(after)), 4),
        "interval": (round(paired.low, 4), round(paired.high, 4)),
        "repaired": paired.repaired,
        "broken": paired.broken,
        "p": paired.p_value,
        "n": paired.cases,
    }


def slot_test(pipe: Any, prompts: list[Prompt], plain: list[Outcome], seed: int) -> dict[str, float]:
    """Share of pictures with all objects: as it is, without object words, without end of text and padding."""
    prompts = prompts[:SLOT_PROMPTS]
    return {
        "intact": rates(plain[: len(prompts)])["present"],
        "neutral objects": rates(generate(pipe, prompts, seed, alter=Neutral(pipe, "objects")))["present"],
        "neutral end and padding": rates(generate(pipe, prompts, seed, alter=Neutral(pipe, "end")))["present"],
        "n": len(prompts),
    }


def seconds_per_image(pipe: Any, method: str) -> float:
    """Wall-clock seconds of one controlled picture of two things, alone."""
    began = time.time()
    generate(pipe, pairs(KINDS[0], 1, 0), 0, control=method)
    return time.time() - began


def measure(
    pipe: Any, count: int, seed: int, method: str, pictures: Path | None = None, report=print
) -> dict[str, Any]:
    """All figures of the gate; `count` prompts of each kind. The plain pictures are kept in `pictures`."""
    prompts = by_kind(count, seed)
    figures: dict[str, Any] = {"rates": {}, "auc": {}, "slots": {}, "control": {}}
    plain, controlled = {}, {}
    for kind in prompts:
        plain[kind] = generate(pipe, prompts[kind], seed, record=kind in KINDS)
        figures["rates"][kind] = rates(plain[kind])
        report(kind, figures["rates"][kind])
        figures["slots"][kind] = slot_test(pipe, prompts[kind], plain[kind], seed)
        report(kind, figures["slots"][kind])
    if pictures:
        save([outcome for outcomes in plain.values() for outcome in outcomes], pictures)
    for kind in KINDS:
        figures["auc"][kind] = round(attention_auc(plain[kind]), 4)
        controlled[kind] = generate(pipe, prompts[kind], seed, control=method)
        figures["control"][kind] = compare(plain[kind], controlled[kind])
        report(kind, figures["auc"][kind], figures["control"][kind])
    both = [[outcome for kind in KINDS for outcome in arm[kind]] for arm in (plain, controlled)]
    figures["control"]["all"] = compare(*both)
    figures["seconds_per_image"] = round(seconds_per_image(pipe, method), 2)
    return figures


def passed(figures: dict[str, Any]) -> dict[str, bool]:
    """Each condition of the gate."""
    single, steering = figures["slots"]["one object"], figures["control"]["all"]
    destroyed = single["intact"] - single["neutral objects"]
    return {
        "attention predicts presence (AUC >= .75, each kind)": all(v >= 0.75 for v in figures["auc"].values()),
        "neutral object words destroy the object (one object, -60 points)": destroyed >= 0.60,
        "neutral end and padding cost little (at most 15 points, every kind)": all(
            v["intact"] - v["neutral end and padding"] <= 0.15 for v in figures["slots"].values()
        ),
        "control repairs (p < .001, +15 points, n >= 300)": steering["p"] < 0.001
        and steering["controlled"] - steering["plain"] >= 0.15
        and steering["n"] >= 300,
        "one object right (>= 95%)": figures["rates"]["one object"]["right"] >= 0.95,
        "two objects plain between 30% and 70%": all(0.3 <= figures["rates"][k]["present"] <= 0.7 for k in KINDS),
        "at most three seconds an image": figures["seconds_per_image"] <= 3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="checkpoint, or a bundled model's name")
    parser.add_argument("--count", type=int, default=300, help="prompts of each kind")
    parser.add_argument("--seed", type=int, default=500_000)
    parser.add_argument("--method", default="attend-and-excite")
    parser.add_argument("--pictures", type=Path, help="folder for the plain pictures and the oracle's labels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    pipe = AttentionControlPipeline.from_pretrained(args.folder).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    figures = measure(pipe, args.count, args.seed, args.method, args.pictures)
    figures["passed"] = passed(figures)
    print(json.dumps(figures, indent=1))
    if args.output:
        args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
