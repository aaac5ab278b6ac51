"""Comparing two methods on the same prompts and seeds. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
CHUNK = 2_000_000  # numbers drawn at once


@dataclass(frozen=True)
class PairedComparison:
    """A treatment against a baseline on the same cases.

    `difference` is the mean of treatment - baseline, `low` and `high` its bootstrap interval; `repaired` and
    `broken` count the cases that only the treatment, or only the baseline, got right; `p_value` is McNemar's, exact.
    """

    cases: int
    difference: float
    low: float
    high: float
    repaired: int
    broken: int
    p_value: float


def compare_paired(baseline: Sequence[bool], treatment: Sequence[bool]) -> PairedComparison:
    """Success and failure of a treatment and its baseline, case by case. Raises ValueError for unequal numbers."""
    before, after = np.asarray(baseline, bool), np.asarray(treatment, bool)
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"paired cases must be equally many, got {len(before)} and {len(after)}")
    difference = after.astype(float) - before
    low, high = bootstrap_interval(difference)
    repaired, broken = int((after & ~before).sum()), int((before & ~after).sum())
    return PairedComparison(
        len(before), float(difference.mean()), low, high, repaired, broken, mcnemar_p_value(repaired, broken)
    )


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of independent cases (Efron & Tibshirani, 1993, chapter 13).

    The same values give the same interval. Raises ValueError without values, or if one is not finite.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("a bootstrap interval needs at least one value, all of them finite")
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(values))
    means = [
        values[rng.integers(len(values), size=(min(rows, resamples - done), len(values)))].mean(1)
        for done in range(0, resamples, rows)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def mcnemar_p_value(repaired: int, broken: int) -> float:
    """Exact two-sided p of McNemar's test: how often a fair coin splits the changed cases as unevenly, or worse."""
    changed = repaired + broken
    tail = sum(comb(changed, k) for k in range(min(repaired, broken) + 1))
    return min(1.0, 2 * tail / 2**changed)
