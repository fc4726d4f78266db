# SPDX-License-Identifier: Apache-2.0
"""F1: the harmonic mean of precision and recall, over all classes together (micro) or as a mean of classes (macro).

Shapes: N items, C classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


def harmonic(hits: float, predicted: float, true: float) -> float:
    """F1 from counts: 2 hits / (predicted + true); 0 where nothing was predicted and nothing was true."""
    return 2.0 * hits / (predicted + true) if predicted + true else 0.0


def f1(predicted: npt.ArrayLike, target: npt.ArrayLike, average: Literal["macro", "micro"] = "macro") -> float:
    """F1 over classes; NaN of no items.

    A class that is neither predicted nor true stands for nothing in the mean, as in scikit-learn. Of single labels
    the micro average is the accuracy; it says more of several labels.

    Args:
        predicted: Class of each item, [N]; or 0 and 1 for each of its classes, [N, C].
        target: What is true, of the same shape.
        average: `macro` or `micro`.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> round(f1([0, 0, 1, 1], [0, 1, 1, 1]), 4), f1([0, 0, 1, 1], [0, 1, 1, 1], "micro")
        (0.7333, 0.75)
    """
    ours, true = np.asarray(predicted), np.asarray(target)
    if ours.shape != true.shape:
        raise ValueError(f"predictions of shape {ours.shape} for targets of shape {true.shape}")
    if not len(true):
        return math.nan
    if true.ndim == 1:
        count = int(max(ours.max(), true.max())) + 1
        ours, true = (np.arange(count) == values[:, None] for values in (ours, true))
    ours, true = ours.astype(bool), true.astype(bool)
    hits, said, there = (part.sum(axis=0).astype(np.float64) for part in (ours & true, ours, true))
    if average == "micro":
        return harmonic(float(hits.sum()), float(said.sum()), float(there.sum()))
    known = (said + there) > 0
    if not known.any():
        return 0.0
    return float((2.0 * hits[known] / (said + there)[known]).mean())
