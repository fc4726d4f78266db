# SPDX-License-Identifier: Apache-2.0
"""Means, their standard errors, and differences of two models on the same items. Numpy only.

Shapes: N values or items, S seeds (fine-tuning runs that differ in nothing else), G groups of items that belong
together (an item that belongs to none is its own group).

References:
    Miller, Adding Error Bars to Evals, arXiv 2411.00640: standard errors of scores, clusters, paired differences.
    Searle, Casella and McCulloch, Variance Components, Wiley 1992, chapter 4: crossed random effects.
    MacKinnon, Nielsen and Webb, Jackknife Inference with Two-Way Clustering, arXiv 2406.08880: two-way variances with
        and without the third term that is taken off.
    Satterthwaite, An Approximate Distribution of Estimates of Variance Components, Biometrics Bulletin 2, 1946.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value, its standard error and its interval (NaN where the data tell none).

    Attributes:
        value: The mean or the difference of means.
        stderr: Over items, and over seeds where there are several.
        df: Degrees of freedom of the error: how many values it was, in effect, estimated from.
        low: Lower end of the 95 % interval (`evaluate.bootstrap` fills it in).
        high: Upper end.
    """

    value: float
    stderr: float
    df: float = field(default=math.nan, compare=False, repr=False)
    low: float = field(default=math.nan, compare=False, repr=False)
    high: float = field(default=math.nan, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where the variance of a table's mean comes from; both parts are already variances of that mean.

    Attributes:
        items: Of the items' means (or the groups') among each other: var_b / N + var_e / (S N).
        seeds: Of the seeds' means among each other: var_a / S + var_e / (S N). 0 with one seed.
        G: Items, or groups of items.
        S: Seeds.
    """

    items: float
    seeds: float
    G: int
    S: int

    @property
    def variance(self) -> float:
        """Var(mean), a little too large with several seeds: both parts hold var_e / (S N)."""
        return self.items + self.seeds

    @property
    def df(self) -> float:
        """Satterthwaite: (sum of the parts)^2 / sum of (part^2 / its degrees of freedom); NaN where nothing varies."""
        parts = ((self.items, self.G - 1), (self.seeds, self.S - 1))
        below = sum(part**2 / count for part, count in parts if part > 0)
        return self.variance**2 / below if below > 0 else math.nan


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


def summed(values_XN: npt.ArrayLike, groups_N: npt.NDArray[Any] | None) -> Floats:
    """Sums over the items of each group, [X, N] -> [X, G]; the items themselves where there are no groups.

    Example:
        >>> summed([[1.0, 2.0, 4.0]], np.array([0, 1, 0]))
        array([[5., 2.]])
    """
    values = np.asarray(values_XN, dtype=np.float64)
    if groups_N is None:
        return values
    return np.stack([np.bincount(groups_N, weights=row) for row in values])


def spread(values_SN: npt.ArrayLike, groups_N: npt.NDArray[Any] | None = None) -> Spread:
    r"""Take the variance of a two-way table's mean apart.

    With the means over items, over seeds and over both (m_s, m_n, m),

        items = G / (G - 1) sum_g (sum_{n in g} (m_n - m))^2 / N^2
        seeds = sum_s (m_s - m)^2 / (S (S - 1))

    Without groups, `items` is the square of the standard error of the items' means, sd / sqrt(N).

    Args:
        values_SN: One row for each seed.
        groups_N: The number of each item's group, from 0.
    """
    table: Floats = np.atleast_2d(np.asarray(values_SN, dtype=np.float64))
    seeds, items = table.shape
    mean, by_seed = float(table.mean()), table.mean(axis=1)
    around_G = summed(table.mean(axis=0)[None, :] - mean, groups_N)[0]
    groups = len(around_G)
    of_items = groups / (groups - 1) * float((around_G**2).sum()) / items**2 if groups > 1 else 0.0
    of_seeds = float(((by_seed - mean) ** 2).sum()) / (seeds * (seeds - 1)) if seeds > 1 else 0.0
    return Spread(items=of_items, seeds=of_seeds, G=groups, S=seeds)


def crossed(values_SN: npt.ArrayLike, groups_N: npt.NDArray[Any] | None = None) -> Estimate:
    r"""Mean over seeds and items, with the error of drawing both anew.

    Every seed answers the same items, so x_sn = mu + a_s + b_n + e_sn with three variances, and

        Var(mean) = var_a / S + var_b / N + var_e / (S N)

    The estimate is the variance over items plus the variance over seeds. Both hold the last term, so it counts twice
    (three times in the pigeonhole bootstrap). Taking it off once would be right on average; but from few seeds the
    difference is often zero or less where seeds do matter, and jumps with it: docs/statistics.md compares the two.
    One seed tells nothing about var_a: the error is then over items alone, sd / sqrt(N).

    Args:
        values_SN: One row for each seed; 1 for a right answer and 0 for a wrong one, or differences of two models.
        groups_N: The number of each item's group, from 0: groups are then what is drawn anew.

    Example:
        >>> crossed([[1, 0, 1, 1], [1, 0, 0, 1]]).value
        0.625
    """
    table: Floats = np.atleast_2d(np.asarray(values_SN, dtype=np.float64))
    found = spread(table, groups_N)
    known = found.G > 1 or found.S > 1
    stderr = math.sqrt(found.variance) if known else math.nan
    return Estimate(value=float(table.mean()), stderr=stderr, df=found.df)


def paired(first_SN: npt.ArrayLike, second_SN: npt.ArrayLike) -> Floats:
    """First minus second on the same items (and, row by row, with the same seeds).

    Args:
        first_SN: Rows are seeds; one row stands for a model that does not depend on the seed.
        second_SN: Likewise, for the same items and the same seeds in the same order.

    Raises:
        ValueError: Other items, or other numbers of seeds.
    """
    first = np.atleast_2d(np.asarray(first_SN, dtype=np.float64))
    second = np.atleast_2d(np.asarray(second_SN, dtype=np.float64))
    if first.shape[1] != second.shape[1] or (len(first) != len(second) and 1 not in (len(first), len(second))):
        raise ValueError(f"not paired: {first.shape} and {second.shape} (seeds, items)")
    return first - second


def paired_difference(first_SN: npt.ArrayLike, second_SN: npt.ArrayLike) -> Estimate:
    """Mean of the paired differences.

    The error is that of the differences: what both find easy or hard drops out, so it is smaller than the two errors
    together wherever the models agree on items.

    Args:
        first_SN: As in :func:`paired`.
        second_SN: Likewise.

    Raises:
        ValueError: Other items, or other numbers of seeds.

    Example:
        >>> paired_difference([1, 1, 0, 1], [1, 0, 0, 1])
        Estimate(value=0.25, stderr=0.25)
    """
    return crossed(paired(first_SN, second_SN))
