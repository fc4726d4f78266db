# SPDX-License-Identifier: Apache-2.0
"""Cohen's kappa: how far two raters agree beyond chance; weighted, how near their ratings are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def kappa(first: Sequence[Any], second: Sequence[Any], *, weights: str | None = None) -> float:
    r"""1 minus observed over expected disagreement; NaN of no items, or where both raters give one and the same answer.

        kappa  =  1 - sum_ij w_ij o_ij / sum_ij w_ij e_ij,        e_ij  =  p_i q_j

    with o the shares of pairs of ratings, p and q their margins, and w_ij = 1 for i != j, or (i - j)^2.

    Args:
        first: N ratings, any values that can be told apart; numbers for quadratic weights.
        second: N ratings of the same items.
        weights: None, or `quadratic`: the squared distance of two ratings, by value and not by rank.

    Raises:
        ValueError: The numbers of items differ, or the weights are unknown.

    Example:
        >>> kappa("aabb", "aabb"), kappa("aabb", "abab"), kappa([1, 2, 3, 4], [1, 2, 4, 3], weights="quadratic")
        (1.0, 0.0, 0.8)

    Reference:
        Cohen, A Coefficient of Agreement for Nominal Scales, 1960; Weighted Kappa, Psychological Bulletin 70, 1968.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} ratings")
    if weights not in (None, "quadratic"):
        raise ValueError(f"weights {weights!r}: None or 'quadratic'")
    known = sorted({*first, *second})
    places = {value: place for place, value in enumerate(known)}
    observed = np.zeros((len(known), len(known)))
    np.add.at(observed, ([places[one] for one in first], [places[one] for one in second]), 1.0)
    values = np.array(known, np.float64) if weights else np.arange(len(known), dtype=np.float64)
    distance = np.subtract.outer(values, values)
    apart = distance**2 if weights else (distance != 0).astype(np.float64)
    expected = float((apart * np.outer(observed.sum(1), observed.sum(0))).sum())
    return float(1.0 - len(first) * (apart * observed).sum() / expected) if expected else math.nan
