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
    """Success and failure of a treatment and its baseline, case by case.

    Raises:
        ValueError: For unequal numbers.
    """
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

    The same values give the same interval.

    Raises:
        ValueError: Without values, or if one is not finite.
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


def ratio_difference(
    baseline: Sequence[tuple[int, int]],
    treatment: Sequence[tuple[int, int]],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How much higher a treatment's share is than its baseline's, where a case counts several things or none.

    The share of an arm is all its successes by all its things.

    Args:
        baseline: (successes, things) of every case.
        treatment: Likewise, of the same cases.
        confidence: Of the interval, 0..1.
        resamples: Of the bootstrap.
        seed: Likewise.

    Returns:
        The difference and its percentile bootstrap interval, whose resampling keeps the two arms of a case together.

    Raises:
        ValueError: For unequal numbers of cases, or if an arm counts nothing.
    """
    arms = np.asarray([baseline, treatment], float)
    if arms.ndim != 3 or not arms[:, :, 1].sum(1).all():
        raise ValueError("the shares of two arms need cases, and at least one thing in each arm")
    rng = np.random.default_rng(seed)
    successes, things = np.moveaxis(arms, 2, 0)
    rows = max(1, CHUNK // successes.shape[1])
    differences = []
    for done in range(0, resamples, rows):
        drawn = rng.integers(successes.shape[1], size=(min(rows, resamples - done), successes.shape[1]))
        before, after = successes[:, drawn].sum(2) / np.maximum(things[:, drawn].sum(2), 1)
        differences.append(after - before)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(differences), [tail, 1 - tail])
    before, after = successes.sum(1) / things.sum(1)
    return float(after - before), float(low), float(high)


def mcnemar_p_value(repaired: int, broken: int) -> float:
    """Exact two-sided p of McNemar's test: how often a fair coin splits the changed cases as unevenly, or worse."""
    changed = repaired + broken
    tail = sum(comb(changed, k) for k in range(min(repaired, broken) + 1))
    return min(1.0, 2 * tail / 2**changed)
