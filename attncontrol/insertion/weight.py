"""The automatic weight of Add-it: with it the text looks a little more at the new image than at its source."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

RATIO = 1.05  # of the attention to the new image over that to its source
BRACKET = (1.0, 1.2)
TOLERANCE = 0.01
MOST = 100  # evaluations; Brent's method takes 4 to 6


def find_weight(ratio: Callable[[float], float], *, strict: bool = False) -> float:
    """The gamma on 1..1.2 at which `ratio` is 1.05.

    Args:
        ratio: How much more the text looks at the new image than at the source under a gamma.
        strict: Whether it is an error that no gamma reaches the ratio, as in the published code. Otherwise the end
            that comes nearer is taken, with a warning.

    Raises:
        ValueError: If `strict` and there is none.
    """
    ends = [ratio(gamma) - RATIO for gamma in BRACKET]
    if ends[0] * ends[1] <= 0:
        return find_root(lambda gamma: ratio(gamma) - RATIO, BRACKET, (ends[0], ends[1]), TOLERANCE)
    found = f"the new image gets {ends[0] + RATIO:.3g} to {ends[1] + RATIO:.3g} times the source's attention"
    if strict or not all(map(math.isfinite, ends)):
        raise ValueError(f"no gamma on {BRACKET[0]:g}..{BRACKET[1]:g} leads to {RATIO}: {found}. Give a number")
    nearest = min(zip(map(abs, ends), BRACKET, strict=True))[1]
    warnings.warn(f"gamma {nearest:g} is the nearest to a ratio of {RATIO}: {found}", stacklevel=2)
    return nearest


def find_root(
    function: Callable[[float], float],
    bracket: tuple[float, float],
    values: tuple[float, float],
    tolerance: float,
) -> float:
    """A root between two points where the function has values of different signs, by Brent's method.

    Brent, "Algorithms for Minimization without Derivatives", 1973, chapter 4: inverse quadratic interpolation or the
    secant, and bisection wherever these do not shrink the bracket enough.
    """
    (before, best), (f_before, f_best) = bracket, values
    opposite, f_opposite = before, f_before
    step = last_step = best - before
    for _ in range(MOST):
        if f_before * f_best < 0:
            opposite, f_opposite, step = before, f_before, best - before
            last_step = step
        if abs(f_opposite) < abs(f_best):
            before, best, opposite = best, opposite, best
            f_before, f_best, f_opposite = f_best, f_opposite, f_best
        half, least = (opposite - best) / 2, tolerance / 2
        if f_best == 0 or abs(half) < least:
            break
        wanted = half
        if abs(last_step) > least and abs(f_best) < abs(f_before):
            wanted = _interpolated((before, best, opposite), (f_before, f_best, f_opposite))
            if 2 * abs(wanted) >= min(abs(last_step), 3 * abs(half) - least):
                wanted = half
        last_step = half if wanted == half else step
        step = wanted
        before, f_before = best, f_best
        best += step if abs(step) > least else math.copysign(least, half)
        f_best = function(best)
    return best


def _interpolated(x: tuple[float, float, float], f: tuple[float, float, float]) -> float:
    """The step from the middle point to where the inverse interpolation through the points vanishes."""
    (a, b, c), (fa, fb, fc) = x, f
    if a == c:
        return -fb * (b - a) / (fb - fa)
    slope_a, slope_c = (fa - fb) / (a - b), (fc - fb) / (c - b)
    return -fb * (fc * slope_c - fa * slope_a) / (slope_c * slope_a * (fc - fa))
