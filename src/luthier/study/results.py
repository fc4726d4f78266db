# SPDX-License-Identifier: Apache-2.0
"""What a study found: its runs, which items they answered rightly, and ways to ask for scores and differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from luthier.evaluate.evaluation import groups_of
from luthier.study.comparisons import UNKNOWN, Difference, compared, scores
from luthier.study.rows import Row, rows
from luthier.study.said import Said, said
from luthier.study.schema import BASE

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from pathlib import Path

    from luthier.evaluate.items import Item
    from luthier.evaluate.statistics import Estimate
    from luthier.study.design import Design

Found = TypeVar("Found")
Verdicts = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a study, done or failed.

    Attributes:
        variant: Its variant, or `base`.
        seed: Its seed; None for `base`, which no seed touches.
        folder: Where it stands.
        summary: The contents of summary.json; empty where it failed.
        right: Suite -> what each item adds to its metric: 1 or 0 where answers are right or wrong.
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
class StudyResult:
    """A study, finished as far as it could be.

    Attributes:
        folder: Where everything stands.
        design: What was to be done.
        runs: What was done: `base` first if it was asked for, then seed by seed.
        suites: Suite name -> number of items; the first one is what the table is about.
        items: Suite name -> its items, for their categories and groups; may lack suites.
    """

    folder: Path
    design: Design
    runs: tuple[Run, ...]
    suites: Mapping[str, int]
    items: Mapping[str, Sequence[Item]] = field(default_factory=dict, repr=False)
    _memory: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

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

    def metric(self, suite: str) -> str:
        """What the score of a suite is, as its runs say."""
        told = (run.summary.get("evaluation", {}).get(suite, {}).get("metric") for run in self.runs)
        return next((name for name in told if name), "exact_match")

    def verdicts(self, variant: str, suite: str | None = None) -> dict[int | None, Verdicts]:
        """Seed -> 1 or 0 for each item, of the runs that finished."""
        name = suite or self.suite
        return {run.seed: run.right[name] for run in self.runs if run.variant == variant and name in run.right}

    def categories(self, suite: str) -> dict[str, npt.NDArray[np.int64]]:
        """Category -> places of its items, in alphabetical order; empty where there are fewer than two."""
        names = [item.category for item in self.items.get(suite, ())]
        found = {name: np.flatnonzero([name == other for other in names]) for name in sorted(set(names))}
        return found if len(found) > 1 else {}

    def groups(self, suite: str) -> npt.NDArray[np.int64] | None:
        """The number of each item's group; None where every item stands alone. An item without a group is its own."""
        return groups_of(self.items.get(suite, ()))

    def compared(self, pairs: Sequence[tuple[str, str]], suite: str | None = None) -> list[Difference]:
        """Compare pairs of variants (first minus second) as one family: p is corrected over all of them."""
        return compared(self, pairs, suite or self.suite)

    def difference(self, first: str, second: str, suite: str | None = None) -> Estimate:
        """Score of one variant minus another's, over the seeds that both finished; NaN where there are none.

        The model before training has no seed; it stands against every seed of the other.
        """
        return self.compared([(first, second)], suite)[0].estimate

    def score(self, variant: str, suite: str | None = None) -> Estimate:
        """Mean score of a variant over its seeds and the suite's items; NaN where no run finished."""
        return scores(self, suite or self.suite).get(variant, UNKNOWN)

    def row(self, variant: str, suite: str | None = None) -> Row:
        """A variant's line of the table."""
        return next(row for row in self.rows(suite) if row.variant == variant)

    def rows(self, suite: str | None = None) -> list[Row]:
        """The table."""
        return rows(self, suite or self.suite)

    def remembered(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """What was found before under a key, or what `find` gives now: intervals are drawn once and asked for often."""
        if key not in self._memory:
            self._memory[key] = find()
        found: Found = self._memory[key]
        return found

    def controlled(self) -> Said:
        """Whether all variants of a seed saw the same examples in the same order, in one sentence."""
        differs = self.design.uncontrolled()
        if differs:
            return said("differs", parts=differs)
        amounts: dict[Any, set[Any]] = {}
        for run in self.runs:
            if run.variant != BASE and not run.error:
                amounts.setdefault(run.seed, set()).add((run.summary.get("tokens"), run.summary.get("scored_tokens")))
        if not amounts:
            return said("unfinished")
        budget = self.design.study.budget
        if budget and any(len(found) > 1 for found in amounts.values()):
            return said("same_until", unit=said(f"of_{budget.kind}"))
        if any(len(found) > 1 for found in amounts.values()):
            return said("other_amounts")
        return said("same")

    def to_json(self) -> dict[str, Any]:
        """Everything `luthier compare --json` prints, and study.json holds."""
        from luthier.study.tree import tree

        return tree(self)
