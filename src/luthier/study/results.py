# SPDX-License-Identifier: Apache-2.0
"""What a study found: runs, the row of each variant, and differences between any two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from luthier.evaluate.statistics import Estimate, crossed, paired_difference
from luthier.study.roles import picture
from luthier.study.schema import BASE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from luthier.study.design import Design

_COSTS = "loss trainable_parameters seconds cpu_seconds tokens_per_second state_bytes peak_memory_bytes".split()
Verdicts = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a study, done or failed.

    Attributes:
        variant: Its variant, or `base`.
        seed: Its seed; None for `base`, which no seed touches.
        folder: Where it stands.
        summary: The contents of summary.json; empty where it failed.
        right: Suite -> 1 or 0 for each item.
        error: Why it failed, or "".
        reused: Nothing had to be trained: the result was there.
    """

    variant: str
    seed: int | None
    folder: Path
    summary: Mapping[str, Any]
    right: Mapping[str, Verdicts]
    error: str = ""
    reused: bool = False

    def to_json(self, suite: str) -> dict[str, Any]:
        """Its entry in results.json."""
        score = self.summary.get("evaluation", {}).get(suite, {}).get("value")
        known = {"variant": self.variant, "seed": self.seed, "score": score}
        return {**self.summary, **known, **({"error": self.error} if self.error else {})}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant over all its seeds: a line of the table. Numbers are means over the runs that finished.

    Attributes:
        variant: Its name.
        runs: How many finished.
        failed: How many did not.
        score: Share of right answers; over seeds and items, or over items alone with one seed.
        delta: Score minus the baseline's, paired; None for the baseline itself.
        loss: Mean training loss at the end.
        trainable_parameters: What trains.
        seconds: Of the training steps.
        tokens_per_second: Likewise.
        cpu_seconds: Processor time of the same: other programs change it less.
        state_bytes: Weights, gradients and optimiser state, counted.
        peak_memory_bytes: The process at its highest while training (or the GPU).
    """

    variant: str
    runs: int
    failed: int
    score: Estimate
    delta: Estimate | None
    loss: float
    trainable_parameters: float
    seconds: float
    tokens_per_second: float
    cpu_seconds: float
    state_bytes: float
    peak_memory_bytes: float

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference seen` against the baseline, or "" without a difference."""
        if self.delta is None or math.isnan(self.delta.value):
            return ""
        if math.isnan(self.delta.stderr):
            return "error unknown"
        return ("better" if self.delta.value > 0 else "worse") if self.delta.clear else "no difference seen"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; what is unknown is null."""
        tree: dict[str, Any] = {"variant": self.variant, "runs": self.runs, "failed": self.failed}
        tree |= {"score": _plain(self.score.value), "score_stderr": _plain(self.score.stderr)}
        delta = self.delta or Estimate(value=math.nan, stderr=math.nan)
        tree |= {"delta": _plain(delta.value), "delta_stderr": _plain(delta.stderr), "verdict": self.verdict or None}
        return tree | {name: _plain(getattr(self, name)) for name in _COSTS}


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A study, finished as far as it could be.

    Attributes:
        folder: Where everything stands.
        design: What was to be done.
        runs: What was done: `base` first if it was asked for, then seed by seed.
        suites: Suite name -> number of items; the first one is what the table is about.
    """

    folder: Path
    design: Design
    runs: tuple[Run, ...]
    suites: Mapping[str, int]

    @property
    def suite(self) -> str:
        """The suite that the table is about."""
        return next(iter(self.suites))

    @property
    def variants(self) -> list[str]:
        """Rows of the table, in order."""
        return list(dict.fromkeys(run.variant for run in self.runs))

    @property
    def failed(self) -> list[Run]:
        """Runs that failed."""
        return [run for run in self.runs if run.error]

    def verdicts(self, variant: str, suite: str | None = None) -> dict[int | None, Verdicts]:
        """Seed -> 1 or 0 for each item, of the runs that finished."""
        name = suite or self.suite
        return {run.seed: run.right[name] for run in self.runs if run.variant == variant and name in run.right}

    def difference(self, first: str, second: str, suite: str | None = None) -> Estimate:
        """Score of one variant minus another's, over the seeds that both finished; NaN where there are none.

        The model before training has no seed; it stands against every seed of the other.
        """
        one, two = self.verdicts(first, suite), self.verdicts(second, suite)
        seeds = [seed for seed in one if seed in two or None in two] or ([*two] if None in one else [])
        if not seeds or not one or not two:
            return Estimate(value=math.nan, stderr=math.nan)
        return paired_difference(*(np.stack([v[s] if s in v else v[None] for s in seeds]) for v in (one, two)))

    def score(self, variant: str, suite: str | None = None) -> Estimate:
        """Mean score of a variant over its seeds and the suite's items; NaN where no run finished."""
        found = list(self.verdicts(variant, suite).values())
        return crossed(np.stack(found)) if found else Estimate(value=math.nan, stderr=math.nan)

    def row(self, variant: str, suite: str | None = None) -> Row:
        """A variant's line of the table."""
        mine = [run for run in self.runs if run.variant == variant]
        done = [run.summary for run in mine if not run.error]
        against = self.design.study.against
        return Row(
            variant=variant,
            runs=len(done),
            failed=len(mine) - len(done),
            score=self.score(variant, suite),
            delta=None if variant == against else self.difference(variant, against, suite),
            loss=_mean(done, "trained_loss"),
            trainable_parameters=_mean(done, "trainable_parameters"),
            seconds=_mean(done, "seconds"),
            tokens_per_second=_mean(done, "tokens_per_second"),
            cpu_seconds=_mean(done, "cpu_seconds"),
            state_bytes=_mean(done, "state_bytes"),
            peak_memory_bytes=_mean(done, "peak_memory_bytes"),
        )

    def rows(self, suite: str | None = None) -> list[Row]:
        """The table."""
        return [self.row(variant, suite) for variant in self.variants]

    def controlled(self) -> str:
        """Whether all variants of a seed saw the same examples in the same order, in one sentence."""
        differs = self.design.uncontrolled()
        if differs:
            return f"Not controlled: variants also differ in {'; '.join(differs)}."
        amounts: dict[Any, set[Any]] = {}
        for run in self.runs:
            if run.variant != BASE and not run.error:
                amounts.setdefault(run.seed, set()).add((run.summary.get("tokens"), run.summary.get("scored_tokens")))
        if not amounts:
            return "Not controlled: no run has finished."
        budget = self.design.study.budget
        if budget and any(len(found) > 1 for found in amounts.values()):
            unit = budget.kind.replace("_", " ")
            return (
                "Controlled: all variants of a seed saw the same examples in the same order, each until its budget of "
                f"{unit} was used; how many tokens that is differs."
            )
        if any(len(found) > 1 for found in amounts.values()):
            return "Not controlled: same examples asked for, but the runs trained on different numbers of tokens."
        return (
            "Controlled: all variants of a seed saw the same examples in the same order "
            "(checked: same data, batch and step keys, same seed, same number of trained tokens)."
        )

    def to_json(self) -> dict[str, Any]:
        """Everything `luthier compare --json` prints."""
        study = self.design.study
        return {
            "title": study.title,
            "folder": str(self.folder),
            "suites": dict(self.suites),
            "seeds": list(study.seeds),
            "baseline": study.against,
            "controlled": self.controlled(),
            "differing": self.design.differing,
            "picture": picture(self),
            "rows": {suite: [row.to_json() for row in self.rows(suite)] for suite in self.suites},
            "runs": [run.to_json(self.suite) for run in self.runs],
        }


def _mean(summaries: list[Mapping[str, Any]], key: str) -> float:
    values = [float(summary[key]) for summary in summaries if summary.get(key) is not None]
    return sum(values) / len(values) if values else math.nan


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
