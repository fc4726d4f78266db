# SPDX-License-Identifier: Apache-2.0
"""The plain mean of categories' means, whatever their sizes, and what each row stands for in it.

It is not a mean of rows; with n_c rows of C categories, N in all, and x̄_c the mean of a category, each row stands for

    v_i  =  macro + N / (C n_c) (x_i - x̄_c)

whose mean is `macro` and whose variance is that of the mean of C separate means: categories are not drawn anew.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def spread_of_macro(scores: Sequence[float], categories: Sequence[str]) -> list[float]:
    """What each row stands for in the mean of categories (the formula above).

    Example:
        >>> values = spread_of_macro([1.0, 0.0, 0.0, 1.0], ["a", "b", "b", "b"])
        >>> [round(value, 3) for value in values], round(sum(values) / 4, 6)
        ([0.667, 0.444, 0.444, 1.111], 0.666667)
    """
    counts, means = Counter(categories), category_means(scores, categories)
    middle = macro_average(means)
    scale = len(scores) / len(counts)
    return [
        middle + scale / counts[name] * (score - means[name]) for score, name in zip(scores, categories, strict=True)
    ]


def category_means(scores: Sequence[float], categories: Sequence[str]) -> dict[str, float]:
    """Category -> mean of its scores."""
    parts: dict[str, list[float]] = {}
    for score, name in zip(scores, categories, strict=True):
        parts.setdefault(name, []).append(score)
    return {name: math.fsum(part) / len(part) for name, part in parts.items()}


def macro_average(by_name: Mapping[str, float]) -> float:
    """The plain mean over categories."""
    return math.fsum(by_name.values()) / len(by_name)
