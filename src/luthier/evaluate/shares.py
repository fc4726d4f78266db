# SPDX-License-Identifier: Apache-2.0
"""What each item adds to a metric that is no mean over items, so that it is compared and drawn anew like one.

    v_i  =  m + (N - 1) (m - m without i)        of fewer than three items: m, as little is left without one

Their mean is m but for the jackknife's estimate of its bias, which is taken out here, and the variance of their mean
is the jackknife's variance of m: intervals, paired differences and tables take them as they take right and wrong.

Reference:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11: pseudo-values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Floats = np.ndarray


def of_counts(counts_NK: Floats, metric: Callable[[Floats], float]) -> Floats:
    """Shares of a metric of sums, [N].

    Args:
        counts_NK: What each item adds to the sums.
        metric: Sums [K] -> value.

    Example:
        >>> right_of = np.array([[1, 2], [3, 3], [0, 1]])  # words that are right, words
        >>> shares = of_counts(right_of, lambda sums: sums[0] / sums[1])
        >>> round(float(shares.mean()), 4)
        0.6667
    """
    counts = np.asarray(counts_NK, np.float64)
    total = counts.sum(axis=0)
    if len(counts) < 3:
        return np.full(len(counts), metric(total))
    return _centred(metric(total), np.array([metric(total - one) for one in counts]))


def of_lists(first_N: Floats, second_N: Floats, metric: Callable[[Floats, Floats], float]) -> Floats:
    """Shares of a metric of two lists, such as a rank correlation, [N]."""
    every = np.arange(len(first_N))
    if len(every) < 3:
        return np.full(len(every), metric(first_N, second_N))
    without = [metric(first_N[every != place], second_N[every != place]) for place in every]
    return _centred(metric(first_N, second_N), np.array(without))


def of_list(each: Sequence[Any], metric: Callable[[list[Any]], float]) -> Floats:
    """Shares of a metric of any list, [N]."""
    every = list(each)
    if len(every) < 3:
        return np.full(len(every), float(metric(every)))
    without = [float(metric(every[:place] + every[place + 1 :])) for place in range(len(every))]
    return _centred(float(metric(every)), np.array(without))


def _centred(whole: float, without_N: Floats) -> Floats:
    return whole - (len(without_N) - 1) * (without_N - without_N.mean())
