# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals of means over seeds and items: both are drawn anew, an item with all its seeds at a time.

Shapes: S seeds, N items, G groups of items (an item alone is its own group), K tables, B resamples.

    m*  =  mean over G groups drawn with replacement  +  sqrt(variance over seeds) times a normal number

Items are resampled as they are. Seeds are not: three seeds have ten different resamples, and the percentiles of two
stand at one standard error instead of two, so their part is drawn from the normal distribution of their variance. The
resamples have the variance of `statistics.crossed`. Their percentiles are then stretched about m by t(0.975, df) /
z(0.975), since an error that comes from three seeds is itself uncertain (Hesterberg 2015, section 2.3).

Drawing rows and columns and multiplying their weights instead (the pigeonhole bootstrap, Owen 2007) counts what a seed
does to single items three times, and what seeds do as a whole (S - 1) / S times; here it is twice, and once.
docs/statistics.md says how often the intervals hold the truth.

References:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13: percentile intervals.
    Hesterberg, What Teachers Should Know About the Bootstrap, American Statistician 69, 2015: narrowness.
    Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 1, 2007: what two-way resampling counts too often.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.evaluate.statistics import Estimate, crossed, spread, summed
from luthier.evaluate.student import t_quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 1 << 18  # drawn items at a time: 2 MiB as weights, 256 KiB as counts
_CHUNKS = 96  # chunks of counts that are kept, 24 MiB: four times 10,000 resamples of 600 items


def bootstrap(
    tables: Sequence[npt.ArrayLike],
    groups_N: npt.NDArray[Any] | None = None,
    *,
    limits: tuple[float, float] = (-math.inf, math.inf),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """Mean, standard error and 95 % interval of each table; the same items are drawn for all of them.

    Args:
        tables: Each [S, N]: scores, or paired differences of two models; S may differ, N must not.
        groups_N: The number of each item's group, from 0.
        limits: What a mean can be at all, such as (0, 1): intervals do not go beyond.
        resamples: B.
        seed: Of the drawing: the same tables give the same intervals.

    Example:
        >>> found = bootstrap([[[1, 0, 1, 1] * 25]])[0]
        >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
        (0.75, 0.66, 0.83)
    """
    arrays = [np.atleast_2d(np.asarray(table, dtype=np.float64)) for table in tables]
    if not arrays:
        return []
    of_items = _drawn_items(np.stack([table.mean(axis=0) for table in arrays]), groups_N, resamples, seed)
    normal_B = np.random.default_rng((seed, 1)).standard_normal(resamples)
    found = []
    for table, shifts_B in zip(arrays, of_items.T, strict=True):
        parts = spread(table, groups_N)
        shifts_B = shifts_B + math.sqrt(parts.seeds) * normal_B
        found.append(_with_interval(crossed(table, groups_N), shifts_B, parts.G, limits))
    return found


def _drawn_items(means_KN: Floats, groups_N: npt.NDArray[Any] | None, resamples: int, seed: int) -> Floats:
    """Mean of the items of G drawn groups, minus the mean of all: [B, K]."""
    sums_KG = summed(means_KN, groups_N)
    sizes_G = summed(np.ones((1, means_KN.shape[1])), groups_N)[0]
    shifts = [weights @ sums_KG.T / (weights @ sizes_G)[:, None] for weights in _weights(len(sizes_G), resamples, seed)]
    return np.concatenate(shifts) - means_KN.mean(axis=1)


def _weights(count: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each of `count` groups is drawn in `count` draws: [some of B, G] at a time."""
    at_a_time = max(1, _CHUNK // count)
    for start in range(0, resamples, at_a_time):
        yield _chunk(count, min(at_a_time, resamples - start), seed, start).astype(np.float64)


@lru_cache(maxsize=_CHUNKS)  # a report asks for the same draws some dozen times: table, sentences, claims, categories
def _chunk(count: int, rows: int, seed: int, start: int) -> npt.NDArray[np.uint8]:
    """Counts of one chunk. A byte holds them: one of more than 255 groups is drawn 256 times with chance 1e-507."""
    drawn = np.random.default_rng((seed, start)).integers(count, size=(rows, count), dtype=np.int32)
    drawn += np.arange(rows, dtype=np.int32)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.uint8)


def _with_interval(found: Estimate, shifts_B: Floats, groups: int, limits: tuple[float, float]) -> Estimate:
    """Percentiles, stretched for the degrees of freedom, kept within the limits."""
    if math.isnan(found.stderr):
        return found
    if found.stderr == 0.0:  # no resample differs, and yet a few more items might: the exact bound of "none of G"
        reach = (1.0 - (1.0 - LEVEL) ** (1.0 / groups)) if groups > 1 and math.isfinite(limits[0]) else 0.0
        low, high = -reach, reach
    else:
        below, above = np.quantile(shifts_B, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
        stretch = t_quantile((1.0 + LEVEL) / 2.0, found.df) / NormalDist().inv_cdf((1.0 + LEVEL) / 2.0)
        low, high = float(below) * stretch, float(above) * stretch
    return replace(found, low=max(found.value + low, limits[0]), high=min(found.value + high, limits[1]))
