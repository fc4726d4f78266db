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
        is_log: It is exp of something that is nearly normal: its interval is made on that scale, and is not symmetric.
        rising: Of a metric that falls as models get better, the one that says the same and rises: studies use it.
    """

    low: float = 0.0
    high: float = 1.0
    is_mean: bool = True
    is_log: bool = False
    rising: str = ""


def _perplexity(rising: str) -> Metric:
    return Metric(low=1.0, high=math.inf, is_mean=False, is_log=True, rising=rising)


METRICS: dict[str, Metric] = {
    "spearman": Metric(low=-1.0, is_mean=False),
    "pearson": Metric(low=-1.0, is_mean=False),
    "bleu": Metric(high=100.0, is_mean=False),
    "perplexity": _perplexity("token_probability"),
    "word_perplexity": _perplexity("word_probability"),
    "byte_perplexity": _perplexity("byte_probability"),
    "bits_per_byte": Metric(high=math.inf, is_mean=False, rising="byte_probability"),
    "token_probability": Metric(is_mean=False, is_log=True),
    "word_probability": Metric(is_mean=False, is_log=True),
    "byte_probability": Metric(is_mean=False, is_log=True),
    "f1_macro": Metric(is_mean=False),
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
