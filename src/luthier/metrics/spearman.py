# SPDX-License-Identifier: Apache-2.0
"""Spearman correlation: how far two lists of numbers have the same order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from luthier.metrics.pearson import pearson

if TYPE_CHECKING:
    import numpy.typing as npt


def spearman(predicted: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """Pearson correlation of ranks, ties having the mean of their ranks; NaN as there.

    Args:
        predicted: [N].
        target: [N].

    Example:
        >>> round(spearman([0.1, 0.4, 0.9, 0.9], [1, 2, 2, 4]), 4)
        0.8333
    """
    return pearson(ranks(predicted), ranks(target))


def ranks(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The rank of each number, from 1; equal numbers share the mean of theirs.

    Example:
        >>> ranks([10, 30, 20, 20]).tolist()
        [1.0, 4.0, 2.5, 2.5]
    """
    _, place, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts).astype(np.float64)
    found: npt.NDArray[np.float64] = (ends - (counts - 1) / 2.0)[place]
    return found
