# SPDX-License-Identifier: Apache-2.0
"""What predictions are worth: metrics by name, what each item adds to the first of them, and what each metric is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

Prediction = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric can be.

    Attributes:
        low: Its least value.
        high: Its greatest.
        is_mean: It is the mean of its items' values; else items have shares of it (`shares`), and a category's mean of
            shares is not the metric of that category.
        rising: Of a metric that falls as models get better, the one that says the same and rises: studies use it.
    """

    low: float = 0.0
    high: float = 1.0
    is_mean: bool = True
    rising: str = ""


_SHARE = Metric(is_mean=False)
METRICS: dict[str, Metric] = {
    "spearman": Metric(low=-1.0, is_mean=False),
    "pearson": Metric(low=-1.0, is_mean=False),
    "bleu": Metric(high=100.0, is_mean=False),
    "perplexity": Metric(low=1.0, high=math.inf, is_mean=False, rising="token_probability"),
    "word_perplexity": Metric(low=1.0, high=math.inf, is_mean=False, rising="word_probability"),
    "byte_perplexity": Metric(low=1.0, high=math.inf, is_mean=False, rising="byte_probability"),
    "bits_per_byte": Metric(high=math.inf, is_mean=False, rising="byte_probability"),
    "token_probability": _SHARE,
    "word_probability": _SHARE,
    "byte_probability": _SHARE,
    "f1_macro": _SHARE,
}


def metric_of(name: str) -> Metric:
    """What a metric can be; one that is not listed is a mean of shares between 0 and 1."""
    return METRICS.get(name, Metric())


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a model's predictions are worth.

    Attributes:
        metric: The one that items are compared by.
        metrics: All by name.
        values: What each item adds: its own score where the metric is a mean, else its share (`shares`), [N].
    """

    metric: str
    metrics: Mapping[str, float]
    values: np.ndarray

    @property
    def value(self) -> float:
        """Of the metric."""
        return self.metrics[self.metric]
