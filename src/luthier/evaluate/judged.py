# SPDX-License-Identifier: Apache-2.0
"""An evaluation of a trained task: metrics, what each row adds to the first of them, and the rows with predictions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.evaluate.bootstrap import bootstrap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from luthier.evaluate.statistics import Estimate

Prediction = dict[str, Any]
RANGES = {"spearman": (-1.0, 1.0), "pearson": (-1.0, 1.0), "bleu": (0.0, 100.0)}  # of the others: 0 to 1


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a model's predictions are worth.

    Attributes:
        metric: The one that rows are compared by.
        metrics: All by name.
        values: What each row adds: its own score where the metric is a mean, else its share (`shares`), [N].
    """

    metric: str
    metrics: Mapping[str, float]
    values: np.ndarray

    @property
    def value(self) -> float:
        """Of the metric."""
        return self.metrics[self.metric]


@dataclass(frozen=True, kw_only=True)
class TaskEvaluation:
    """A model's predictions for the rows of a file, judged.

    Attributes:
        suite: Name of the file.
        digest: Of its content.
        judged: Metrics.
        predictions: One for each row, as plain data.
        refused: What was wrong with rows that are not among them -> how many.
        seconds: Wall-clock.
    """

    suite: str
    digest: str
    judged: Judged
    predictions: Sequence[Prediction]
    refused: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def estimate(self) -> Estimate:
        """The metric with its interval."""
        limits = RANGES.get(self.judged.metric, (0.0, 1.0))
        return bootstrap([self.judged.values[None, :]], limits=limits)[0]

    def to_json(self) -> dict[str, Any]:
        """The entry of `summary.json` under `evaluation`."""
        found = self.estimate
        numbers = {"value": self.judged.value, "stderr": found.stderr, "low": found.low, "high": found.high}
        return {
            "metric": self.judged.metric,
            **{name: None if math.isnan(number) else number for name, number in numbers.items()},
            "items": len(self.judged.values),
            "metrics": {name: None if math.isnan(value) else value for name, value in self.judged.metrics.items()},
            **({"refused": dict(self.refused)} if self.refused else {}),
            "digest": self.digest,
            "seconds": self.seconds,
        }

    def write(self, path: Path) -> None:
        """Write predictions as JSONL: one line a row; `right` is what it adds to the metric."""
        rows = zip(self.predictions, self.judged.values.tolist(), strict=True)
        lines = [json.dumps({**row, "right": value}, ensure_ascii=False) + "\n" for row, value in rows]
        writing = path.with_name(f"{path.name}.writing")
        writing.write_text("".join(lines), encoding="utf-8")
        writing.replace(path)
