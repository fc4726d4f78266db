# SPDX-License-Identifier: Apache-2.0
"""Matthews correlation: agreement of two labellings with any number of classes, 0 for what chance gives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def matthews(predicted: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """Matthews correlation coefficient; 0 where either labelling has one class only, NaN of no items.

        (c n - p . t) / sqrt((n^2 - p . p) (n^2 - t . t))

    with c items of n right, p and t how often each class is predicted and true.

    Args:
        predicted: Class of each item, [N].
        target: What is true, [N].

    Raises:
        ValueError: The shapes differ.

    Reference:
        Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004, equation 8.

    Example:
        >>> round(matthews([1, 1, 0, 0], [1, 0, 0, 0]), 4)
        0.5774
    """
    ours, true = np.asarray(predicted), np.asarray(target)
    if ours.shape != true.shape:
        raise ValueError(f"predictions of shape {ours.shape} for targets of shape {true.shape}")
    if not len(true):
        return math.nan
    count = int(max(ours.max(), true.max())) + 1
    p, t = (np.bincount(values, minlength=count).astype(np.float64) for values in (ours, true))
    n, right = float(len(true)), float((ours == true).sum())
    scale = math.sqrt((n * n - p @ p) * (n * n - t @ t))
    return float((right * n - p @ t) / scale) if scale else 0.0
