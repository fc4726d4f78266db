# SPDX-License-Identifier: Apache-2.0
"""Student's t without scipy: tail and quantile, for the few seeds that an error was estimated from.

References:
    DLMF 8.17: regularised incomplete beta function, 8.17.22 for its continued fraction, 8.17.4 for its symmetry.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_NORMAL_FROM = 1e7  # degrees of freedom; t and normal quantiles differ by less than 1e-6 from here
_TERMS = 10_000
_STEPS = 60  # 4 to 25 are taken
_SMALL = 1e-300


def t_tail(t: float, df: float) -> float:
    """P(T > t) of Student's t: half of I_x(df/2, 1/2) at x = df / (df + t^2) for t >= 0.

    Example:
        >>> round(t_tail(12.706, 1), 5)
        0.025
    """
    if math.isnan(t) or math.isnan(df):
        return math.nan
    if t < 0:
        return 1.0 - t_tail(-t, df)
    if math.isinf(t):
        return 0.0
    if df > _NORMAL_FROM:
        return 0.5 * math.erfc(t / math.sqrt(2.0))
    return 0.5 * _incomplete_beta(t * t / (df + t * t), df / (df + t * t), 0.5 * df)


@lru_cache(maxsize=256)
def t_quantile(p: float, df: float) -> float:
    """The t that a share p of the distribution stands below, by Newton's steps on the tail.

    Raises:
        ValueError: p is not between 0 and 1.

    Example:
        >>> round(t_quantile(0.975, 4), 3)
        2.776
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"t_quantile: p = {p} is not between 0 and 1")
    if math.isnan(df):
        return math.nan
    if p < 0.5:
        return -t_quantile(1.0 - p, df)
    if df > _NORMAL_FROM:
        return NormalDist().inv_cdf(p)
    t, above = 0.0, 1.0 - p
    while t_tail(2.0 * t + 1.0, df) > above:
        t = 2.0 * t + 1.0
    for _ in range(_STEPS):  # from below: the tail is convex, so that Newton's steps never pass the root
        step = (t_tail(t, df) - above) / _density(t, df)
        t += step
        if step <= 1e-13 * t:
            break
    return t


def _density(t: float, df: float) -> float:
    front = math.lgamma(0.5 * df + 0.5) - math.lgamma(0.5 * df) - 0.5 * math.log(math.pi * df)
    return math.exp(front - (0.5 * df + 0.5) * math.log1p(t * t / df))


def _incomplete_beta(y: float, x: float, a: float) -> float:
    """I_x(a, 1/2) with y = 1 - x, which would lose digits if it were worked out from x."""
    if x == 0.0 or y == 0.0:
        return float(y == 0.0)
    front = math.exp(
        math.lgamma(a + 0.5) - math.lgamma(a) - math.lgamma(0.5) + a * math.log1p(-y) + 0.5 * math.log(y)
    )  # fmt: skip
    if x < (a + 1.0) / (a + 2.5):
        return front * _fraction(x, a, 0.5) / a
    return 1.0 - front * _fraction(y, 0.5, a) / 0.5


def _fraction(x: float, a: float, b: float) -> float:
    """DLMF 8.17.22 by Lentz's method."""
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0) or _SMALL)
    value = d
    for m in range(1, _TERMS):
        for number in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 / (1.0 + number * d or _SMALL)
            c = 1.0 + number / c or _SMALL
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value
