"""Paired statistics against scipy-free facts: known p values, coverage of the interval, symmetry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.evaluation.statistics import (
    bootstrap_interval,
    compare_paired,
    mcnemar_p_value,
    ratio_difference,
)


@pytest.mark.parametrize(
    ("repaired", "broken", "p_value"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (0, 10, 2 / 1024), (8, 2, 112 / 1024), (10, 10, 1.0)],
)
def test_mcnemar_counts_the_splits_of_a_fair_coin(repaired, broken, p_value):
    assert mcnemar_p_value(repaired, broken) == pytest.approx(p_value, abs=1e-15)


def test_mcnemar_takes_large_counts():
    assert 0 < mcnemar_p_value(3000, 2000) < 1e-40


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_comparison_adds_up_and_reverses(cases):
    before, after = zip(*cases, strict=True)
    there, back = compare_paired(before, after), compare_paired(after, before)
    assert there.difference == pytest.approx((there.repaired - there.broken) / len(cases))
    assert there.low <= there.difference + 1e-12 and there.difference <= there.high + 1e-12
    assert (there.repaired, there.broken, there.p_value) == (back.broken, back.repaired, back.p_value)
    assert there.difference == -back.difference


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        values = rng.choice([-1.0, 0.0, 1.0], size=80, p=[0.1, 0.6, 0.3])
        low, high = bootstrap_interval(values, resamples=500, seed=trial)
        covered += low <= 0.2 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_interval_does_not_depend_on_how_draws_are_chunked(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval(values)
    monkeypatch.setattr("attncontrol.evaluation.statistics.CHUNK", 60)
    assert bootstrap_interval(values) == whole


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, float("nan")]])
def test_the_interval_needs_finite_values(values):
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval(values)


def test_pairs_must_match():
    with pytest.raises(ValueError, match="equally many, got 2 and 1"):
        compare_paired([True, False], [True])


def test_shares_of_things_are_compared_case_by_case():
    before, after = [(0, 1), (1, 2), (0, 0)], [(1, 1), (2, 2), (0, 1)]
    difference, low, high = ratio_difference(before, after)
    assert difference == pytest.approx(3 / 4 - 1 / 3) and low < difference < high
    assert ratio_difference(before, before) == (0, 0, 0)
    backwards = ratio_difference(after, before)
    assert backwards == pytest.approx((-difference, -high, -low), abs=0.02)


def test_the_interval_of_shares_covers_the_difference_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(300):
        things = rng.integers(0, 3, (2, 80))
        arms = np.stack([rng.binomial(things, [[0.5], [0.7]]), things], -1)
        _, low, high = ratio_difference(*arms, resamples=500, seed=trial)
        covered += low <= 0.2 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_shares_need_things():
    with pytest.raises(ValueError, match="at least one thing in each arm"):
        ratio_difference([(0, 0)], [(1, 1)])
