# SPDX-License-Identifier: Apache-2.0
"""One variant over all its seeds: a line of the table, with what it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.study.comparisons import UNKNOWN, Difference, compared, scores
from luthier.study.schema import BASE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.evaluate.statistics import Estimate
    from luthier.study.results import StudyResult

_COSTS = (
    "loss trainable_parameters seconds cpu_seconds tokens_per_second state_bytes peak_memory_bytes flops cost_per_point"
).split()
POINT = 0.01  # a point of score is a hundredth of its range


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table. Numbers are means over the runs that finished; NaN is unknown.

    Attributes:
        variant: Its name.
        runs: How many finished.
        failed: How many did not.
        score: Share of right answers; over seeds and items, or over items alone with one seed.
        difference: To the baseline, paired and corrected over the table; None for the baseline itself.
        loss: Mean training loss at the end.
        trainable_parameters: What trains.
        seconds: Of the training steps.
        tokens_per_second: Likewise.
        cpu_seconds: Processor time of the same: other programs change it less.
        state_bytes: Weights, gradients and optimiser state, counted.
        peak_memory_bytes: The process at its highest while training (or the GPU).
        flops: Of the training, counted.
        cost_per_point: Seconds for each point (0.01) of score gained over the model before training; NaN where
            nothing was gained, or where that model was not scored.
    """

    variant: str
    runs: int
    failed: int
    score: Estimate
    difference: Difference | None
    loss: float
    trainable_parameters: float
    seconds: float
    tokens_per_second: float
    cpu_seconds: float
    state_bytes: float
    peak_memory_bytes: float
    flops: float
    cost_per_point: float

    @property
    def delta(self) -> Estimate | None:
        """Score minus the baseline's; None for the baseline itself."""
        return self.difference.estimate if self.difference else None

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `no difference seen` or `error unknown`, or "" without a difference."""
        return self.difference.verdict if self.difference else ""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; what is unknown is null."""
        found = self.difference or Difference(first=self.variant, second="", estimate=UNKNOWN)
        tree: dict[str, Any] = {"variant": self.variant, "runs": self.runs, "failed": self.failed}
        for name, value in (("score", self.score), ("delta", found.estimate)):
            tree |= {name: plain(value.value), f"{name}_stderr": plain(value.stderr)}
            tree |= {f"{name}_low": plain(value.low), f"{name}_high": plain(value.high)}
        tree |= {"p": plain(found.p), "p_holm": plain(found.p_holm), "smallest": plain(found.smallest)}
        return tree | {"verdict": self.verdict or None} | {name: plain(getattr(self, name)) for name in _COSTS}


def rows(result: StudyResult, suite: str) -> list[Row]:
    """The table of a suite."""
    against = result.design.study.against
    pairs = [(variant, against) for variant in result.variants if variant != against]
    found = {difference.first: difference for difference in compared(result, pairs, suite)}
    marks = scores(result, suite)
    return [_row(result, variant, marks, found.get(variant)) for variant in result.variants]


def _row(result: StudyResult, variant: str, marks: Mapping[str, Estimate], found: Difference | None) -> Row:
    mine = [run for run in result.runs if run.variant == variant]
    done = [run.summary for run in mine if not run.error]
    score, before = marks.get(variant, UNKNOWN), marks.get(BASE, UNKNOWN)
    gained, seconds = (score.value - before.value) / POINT, _mean(done, "seconds")
    return Row(
        variant=variant,
        runs=len(done),
        failed=len(mine) - len(done),
        score=score,
        difference=found,
        loss=_mean(done, "trained_loss"),
        trainable_parameters=_mean(done, "trainable_parameters"),
        seconds=seconds,
        tokens_per_second=_mean(done, "tokens_per_second"),
        cpu_seconds=_mean(done, "cpu_seconds"),
        state_bytes=_mean(done, "state_bytes"),
        peak_memory_bytes=_mean(done, "peak_memory_bytes"),
        flops=_mean(done, "flops"),
        cost_per_point=seconds / gained if gained > 0 else math.nan,
    )


def _mean(summaries: list[Mapping[str, Any]], key: str) -> float:
    values = [float(summary[key]) for summary in summaries if summary.get(key) is not None]
    return sum(values) / len(values) if values else math.nan


def plain(value: float) -> float | None:
    """A number for JSON; null for what is unknown."""
    return None if math.isnan(value) else value
