# SPDX-License-Identifier: Apache-2.0
"""Means, their standard errors, and differences of two models on the same items. Numpy only.

Shapes: N values or items, S seeds (fine-tuning runs that differ in nothing else).

References:
    Miller, Adding Error Bars to Evals, arXiv 2411.00640: standard errors of scores, paired differences.
    Searle, Casella and McCulloch, Variance Components, Wiley 1992, chapter 4: crossed random effects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

CLEAR = 2.0  # standard errors; a normal estimate is further out by chance in 4.6 % of the cases


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its standard error (NaN where the data tell none)."""

    value: float
    stderr: float

    @property
    def clear(self) -> bool:
        """Whether the value is further from zero than two standard errors."""
        return abs(self.value) >= CLEAR * self.stderr and self.value != 0.0


def mean_error(values_N: npt.ArrayLike) -> float:
    """Standard error of the mean of independent values: sqrt(sum (x - mean)^2 / (N - 1) / N).

    For a share p of right answers that is the binomial sqrt(p (1 - p) / (N - 1)).

    Returns:
        NaN for fewer than two values: one value tells nothing about its spread.

    Example:
        >>> mean_error([1.0, 2.0, 3.0, 4.0]) == math.sqrt(5 / 3 / 4)
        True
    """
    values = np.asarray(values_N, dtype=np.float64)
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def crossed(values_SN: npt.ArrayLike) -> Estimate:
    r"""Mean over seeds and items, with the error of drawing both anew.

    Every seed answers the same items, so x_sn = mu + a_s + b_n + e_sn with three variances, estimated from the mean
    squares of the two-way table (negative estimates become zero), and

        Var(mean) = var_a / S + var_b / N + var_e / (S N)

    One seed tells nothing about var_a: the error is then over items alone, sd / sqrt(N).

    Args:
        values_SN: One row for each seed; 1 for a right answer and 0 for a wrong one, or differences of two models.

    Example:
        >>> crossed([[1, 0, 1, 1], [1, 0, 0, 1]]).value
        0.625
    """
    table: npt.NDArray[Any] = np.atleast_2d(np.asarray(values_SN, dtype=np.float64))
    seeds, items = table.shape
    mean = float(table.mean())
    if seeds == 1 or items == 1:
        return Estimate(value=mean, stderr=mean_error(table.ravel()))
    by_seed, by_item = table.mean(axis=1), table.mean(axis=0)
    square_seed = items * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
    square_item = seeds * float(((by_item - mean) ** 2).sum()) / (items - 1)
    rest = table - by_seed[:, None] - by_item[None, :] + mean
    square_rest = float((rest**2).sum()) / ((seeds - 1) * (items - 1))
    variance = max(square_seed - square_rest, 0.0) + max(square_item - square_rest, 0.0) + square_rest
    return Estimate(value=mean, stderr=math.sqrt(variance / (seeds * items)))


def paired_difference(first_SN: npt.ArrayLike, second_SN: npt.ArrayLike) -> Estimate:
    """First minus second on the same items (and, row by row, with the same seeds).

    The error is that of the differences: what both find easy or hard drops out, so it is smaller than the two errors
    together wherever the models agree on items.

    Args:
        first_SN: Rows are seeds; one row stands for a model that does not depend on the seed.
        second_SN: Likewise, for the same items and the same seeds in the same order.

    Raises:
        ValueError: Other items, or other numbers of seeds.

    Example:
        >>> paired_difference([1, 1, 0, 1], [1, 0, 0, 1])
        Estimate(value=0.25, stderr=0.25)
    """
    first = np.atleast_2d(np.asarray(first_SN, dtype=np.float64))
    second = np.atleast_2d(np.asarray(second_SN, dtype=np.float64))
    if first.shape[1] != second.shape[1] or (len(first) != len(second) and 1 not in (len(first), len(second))):
        raise ValueError(f"not paired: {first.shape} and {second.shape} (seeds, items)")
    return crossed(first - second)
