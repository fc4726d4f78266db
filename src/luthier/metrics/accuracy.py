# SPDX-License-Identifier: Apache-2.0
"""Accuracy: the share of items whose prediction is right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def accuracy(predicted: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """The share of items that are predicted rightly; NaN of none.

    Args:
        predicted: Class of each item, [N]; or 0 and 1 for each of its classes, [N, C], which must all be right.
        target: What is true, of the same shape.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> accuracy([0, 2, 1, 1], [0, 1, 1, 1]), accuracy([[1, 0], [1, 1]], [[1, 0], [0, 1]])
        (0.75, 0.5)
    """
    ours, true = np.asarray(predicted), np.asarray(target)
    if ours.shape != true.shape:
        raise ValueError(f"predictions of shape {ours.shape} for targets of shape {true.shape}")
    if not len(true):
        return math.nan
    right = (ours == true).reshape(len(true), -1).all(axis=1)
    return float(right.mean())
