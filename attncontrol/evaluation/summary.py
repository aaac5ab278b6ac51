"""Tables of scores by method and prompt set, differences to a baseline on the same prompts and seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attncontrol.evaluation.statistics import bootstrap_interval, mcnemar_p_value

PLAIN = "plain"
ALL = "all"
Case = tuple[str, str, int]  # prompt set, prompt, seed


@dataclass(frozen=True)
class Cell:
    """A mean over images and its bootstrap interval over prompts; the difference to the baseline likewise.

    `p_value` is McNemar's, for scores that are 0 or 1. Differences are None for the baseline itself, and where no
    prompt and seed is shared with it.
    """

    images: int
    mean: float
    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Table:
    """One score: rows by prompt set and method, in order of appearance, the baseline first."""

    score: str
    baseline: str
    cells: dict[tuple[str, str], Cell]


def score_names(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """The scores that are numbers in at least one line, in order of appearance."""
    names = {name for line in lines for name, value in line["scores"].items() if isinstance(value, float | int)}
    order = dict.fromkeys(name for line in lines for name in line["scores"])
    return [name for name in order if name in names]


def tables(lines: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table per score. The baseline is plain sampling if there is some, else the first method.

    Methods are compared on the prompts and seeds they share with the baseline. Prompts are the independent cases:
    scores are averaged over a prompt's seeds before the bootstrap. With several prompt sets there are rows for all
    together.
    """
    methods = list(dict.fromkeys(line["method"] for line in lines))
    baseline = PLAIN if PLAIN in methods else methods[0]
    methods.sort(key=lambda method: method != baseline)
    sets = list(dict.fromkeys(line["prompt_set"] for line in lines))
    groups = [*sets, ALL] if len(sets) > 1 else sets
    made = []
    for score in score_names(lines):
        values: dict[str, dict[Case, float]] = defaultdict(dict)
        for line in lines:
            if (value := line["scores"].get(score)) is not None:
                values[line["method"]][line["prompt_set"], line["prompt"], line["seed"]] = float(value)
        cells = {}
        for group in groups:
            before = _of_set(values[baseline], group)
            for method in methods:
                if after := _of_set(values[method], group):
                    cells[group, method] = _cell(after, None if method == baseline else before)
        made.append(Table(score, baseline, cells))
    return made


def extremes(lines: Sequence[Mapping[str, Any]], score: str, count: int) -> tuple[list, list]:
    """The worst and the best images by a score, equal scores by file name.

    None with the best score is among the worst, nor the other way round: successes do not fill up the failures.
    """
    scored = [line for line in lines if line["scores"].get(score) is not None]
    ordered = sorted(scored, key=lambda line: (line["scores"][score], line["file_name"]))
    values = [line["scores"][score] for line in ordered]
    count = min(count, len(ordered) // 2)
    worst = [line for line, value in zip(ordered, values, strict=True) if value < values[-1]]
    best = [line for line, value in zip(ordered, values, strict=True) if value > values[0]]
    return worst[:count], best[::-1][:count]


def _of_set(values: Mapping[Case, float], group: str) -> dict[Case, float]:
    return {case: value for case, value in values.items() if group in (ALL, case[0])}


def _cell(after: Mapping[Case, float], before: Mapping[Case, float] | None) -> Cell:
    low, high = bootstrap_interval(_by_prompt(after))
    cell = {"images": len(after), "mean": float(np.mean(list(after.values()))), "low": low, "high": high}
    shared = [case for case in after if before and case in before]
    if not shared:
        return Cell(**cell)
    differences = {case: after[case] - before[case] for case in shared}
    low, high = bootstrap_interval(_by_prompt(differences))
    p_value = None
    if {*after.values(), *before.values()} <= {0.0, 1.0}:
        changes = list(differences.values())
        p_value = mcnemar_p_value(changes.count(1.0), changes.count(-1.0))
    return Cell(**cell, difference=float(np.mean(list(differences.values()))), difference_low=low,
                difference_high=high, p_value=p_value)  # fmt: skip


def _by_prompt(values: Mapping[Case, float]) -> list[float]:
    prompts: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (prompt_set, prompt, _), value in values.items():
        prompts[prompt_set, prompt].append(value)
    return [float(np.mean(scores)) for scores in prompts.values()]
