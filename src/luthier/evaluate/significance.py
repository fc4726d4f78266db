# SPDX-License-Identifier: Apache-2.0
"""Could chance have done this? Sign-flip test, several comparisons at once, and what a study could have seen.

Shapes: G items or groups of items, each with its difference summed over seeds.

References:
    Fisher, The Design of Experiments, 1935, section 21: the sign-flip (randomisation) test.
    Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010: (b + 1) / (n + 1).
    Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6, 1979.
    Berger, Multiparameter Hypothesis Testing and Acceptance Sampling, Technometrics 24, 1982: the larger of two p.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from luthier.evaluate.student import t_quantile, t_tail

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from luthier.evaluate.statistics import Estimate

    Floats = npt.NDArray[np.float64]

ALPHA = 0.05
POWER = 0.8
FLIPS = 9_999  # with the one that was seen: 10,000
_CHUNK = 1 << 21  # signs at a time
_LONGEST = 50_000  # steps of the exact distribution; above it, and for uneven numbers, signs are drawn
_TOLERANCE = 1e-9  # sums that differ by rounding alone are the same


def sign_flip(sums_G: npt.ArrayLike, seed: int = 0) -> float:
    """Two-sided p of the sign-flip test: how often would random signs give a sum as far from zero as the one seen?

    If two models were the same, the difference on each item could as well have had the other sign. Whole numbers
    (differences of right answers) have an exact answer at any count: the distribution of the sum of random signs is a
    convolution of binomial ones. For others all 2^G signs are tried while they are at most 9,999 + 1, or as many drawn,
    and p is then (b + 1) / (n + 1).

    Args:
        sums_G: The difference of each item, summed over its seeds (and over the items of a group).
        seed: Of the drawn signs.

    Returns:
        NaN without items; 1 where all differences are zero.

    Example:
        >>> sign_flip([1, 1, 1, 0])  # all three up, or all three down: 2 of 2^3
        0.25
    """
    values: Floats = np.abs(np.asarray(sums_G, dtype=np.float64))
    seen = abs(float(np.sum(sums_G)))
    if not len(values):
        return math.nan
    values = values[values > 0]  # a zero is the same with either sign
    whole = np.rint(values)
    if len(values) and np.abs(values - whole).max() < _TOLERANCE and whole.sum() <= _LONGEST:
        return _exact(whole.astype(np.int64), round(seen))
    edge = seen - _TOLERANCE * max(1.0, seen)
    if 2 ** min(len(values), 60) <= FLIPS + 1:
        signs = 1.0 - 2.0 * (np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1)
        return float(np.mean(np.abs(signs @ values) >= edge))
    return (_drawn(values, edge, seed) + 1) / (FLIPS + 1)


def _exact(values_G: npt.NDArray[np.int64], seen: int) -> float:
    """P(|sum of +-values| >= seen): m signs of one size k are a binomial on the steps -mk, -mk + 2k, ..., mk."""
    chances: Floats = np.ones(1)
    for size, count in zip(*np.unique(values_G, return_counts=True), strict=True):
        steps = np.zeros(2 * int(size) * int(count) + 1)
        total = 2 ** int(count)
        steps[:: 2 * int(size)] = [math.comb(int(count), ups) / total for ups in range(int(count) + 1)]
        chances = np.convolve(chances, steps)
    middle = len(chances) // 2
    if seen == 0:
        return 1.0
    return min(1.0, float(chances[: middle - seen + 1].sum() + chances[middle + seen :].sum()))


def _drawn(values_G: Floats, edge: float, seed: int) -> int:
    """How many of the drawn signs give a sum at least that far out."""
    random = np.random.default_rng(seed)
    at_a_time, beyond = max(1, _CHUNK // len(values_G)), 0
    for start in range(0, FLIPS, at_a_time):
        rows = min(at_a_time, FLIPS - start)
        signs = random.integers(2, size=(rows, len(values_G)), dtype=np.int8)
        beyond += int((np.abs(2.0 * (signs @ values_G) - values_G.sum()) >= edge).sum())
    return beyond


def t_test(difference: Estimate) -> float:
    """Two-sided p of value / stderr as Student's t.

    Example:
        >>> from luthier.evaluate.statistics import Estimate
        >>> round(t_test(Estimate(value=2.776, stderr=1.0, df=4)), 3)
        0.05
    """
    if math.isnan(difference.value) or math.isnan(difference.stderr):
        return math.nan
    if difference.stderr == 0.0:
        return float(difference.value == 0.0)
    return 2.0 * t_tail(abs(difference.value) / difference.stderr, difference.df)


def p_value(difference: Estimate, sums_G: npt.ArrayLike, seeds: int) -> float:
    """Whether chance could have made a difference: the sign-flip test, which several seeds must bear out.

    The sign-flip test assumes nothing of how differences are distributed, but takes the seeds as they are. The t test
    takes other seeds into account. A difference has to stand up to both, so p is the larger one: it is right whenever
    either is (Berger 1982). One seed has the sign-flip test alone.

    Args:
        difference: With its standard error over seeds and items.
        sums_G: As in :func:`sign_flip`.
        seeds: How many there were.
    """
    flipped = sign_flip(sums_G)
    return flipped if seeds == 1 or math.isnan(difference.stderr) else max(flipped, t_test(difference))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the i-th smallest p of k times k - i + 1, never below the one before it, never above 1.

    A comparison without a p (NaN) keeps none and does not count.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted((place for place, p in enumerate(p_values) if not math.isnan(p)), key=lambda place: p_values[place])
    corrected, least = [math.nan] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, p_values[place] * (len(order) - rank)))
        corrected[place] = least
    return corrected


def smallest_seen(difference: Estimate, comparisons: int = 1) -> float:
    """The smallest true difference that would have been seen in four studies of five.

        (t(1 - alpha / 2k, df) + t(0.8, df)) stderr

    Args:
        difference: Its error is taken to be what a repetition would have.
        comparisons: k: at the level of Holm's first step.

    Returns:
        NaN where there is no error, or where it is 0 since both models answered alike.

    Example:
        >>> from luthier.evaluate.statistics import Estimate
        >>> round(smallest_seen(Estimate(value=0.0, stderr=0.01, df=1e9)), 4)
        0.028
    """
    if not difference.stderr > 0.0:
        return math.nan
    level, df = ALPHA / 2.0 / max(comparisons, 1), difference.df
    return (t_quantile(1.0 - level, df) + t_quantile(POWER, df)) * difference.stderr
