# SPDX-License-Identifier: Apache-2.0
"""Pearson correlation: how far two lists of numbers lie on one rising line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def pearson(predicted: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """Pearson correlation; NaN of fewer than two items, or where either list holds one number only.

    Args:
        predicted: [N].
        target: [N].

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> round(pearson([1, 2, 3], [1, 2, 4]), 4)
        0.982
    """
    x, y = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    if x.shape != y.shape:
        raise ValueError(f"predictions of shape {x.shape} for targets of shape {y.shape}")
    if len(x) < 2:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    return float(np.clip((x @ y) / scale, -1.0, 1.0)) if scale else math.nan
