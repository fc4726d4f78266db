# SPDX-License-Identifier: Apache-2.0
"""Scores by category, and what training gained or lost in each against the model before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.study.comparisons import Difference, by_category, compared, corrected, scores
from luthier.study.rows import plain
from luthier.study.schema import BASE

if TYPE_CHECKING:
    from luthier.evaluate.statistics import Estimate
    from luthier.study.results import StudyResult


@dataclass(frozen=True, kw_only=True)
class Change:
    """One category before and after training.

    Attributes:
        before: The score of the model before training.
        after: The variant's.
        difference: After minus before; p is corrected over all categories and variants.
    """

    before: Estimate
    after: Estimate
    difference: Difference

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        delta = self.difference.estimate
        return {
            "before": plain(self.before.value),
            "after": plain(self.after.value),
            "delta": plain(delta.value),
            "low": plain(delta.low),
            "high": plain(delta.high),
            "p_holm": plain(self.difference.p_holm),
            "verdict": self.difference.verdict or None,
        }


def score_by_category(result: StudyResult, suite: str) -> dict[str, dict[str, Estimate]]:
    """Category -> variant -> score with interval; empty where the suite has fewer than two categories."""
    return {name: scores(result, suite, name) for name in result.categories(suite)}


def forgetting(result: StudyResult) -> dict[str, dict[str, Change]]:
    """Variant -> category -> before and after, over all suites; empty where the model before training has no score.

    A suite without categories counts as one, under its own name. Where several suites have categories, each one's name
    stands before them.
    """
    variants = [variant for variant in result.variants if variant != BASE and result.verdicts(variant)]
    pairs = [(variant, BASE) for variant in variants]
    if not result.verdicts(BASE) or not pairs:
        return {}
    places = _places(result)
    found: list[Difference] = []
    for suite, category in places.values():
        found += by_category(result, pairs, suite)[category] if category is not None else compared(result, pairs, suite)
    done = iter(corrected(found))
    changes: dict[str, dict[str, Change]] = {variant: {} for variant in variants}
    for name, (suite, category) in places.items():
        marks = scores(result, suite, category)
        for variant in variants:
            difference = next(done)
            if variant in marks:
                changes[variant][name] = Change(before=marks[BASE], after=marks[variant], difference=difference)
    return changes


def _places(result: StudyResult) -> dict[str, tuple[str, str | None]]:
    """Name of a category in `forgetting` -> its suite and its name there."""
    kinds = {suite: list(result.categories(suite)) for suite in result.suites}
    several = sum(bool(names) for names in kinds.values()) > 1
    found: dict[str, tuple[str, str | None]] = {}
    for suite, names in kinds.items():
        for name in names:
            found[f"{suite}/{name}" if several or name in result.suites else name] = (suite, name)
        if not names:
            found[suite] = (suite, None)
    return found


def categories_json(result: StudyResult) -> dict[str, Any]:
    """Suite -> category -> variant -> value, interval and number of items."""
    return {
        suite: {
            name: {
                variant: {
                    "value": plain(mark.value),
                    "low": plain(mark.low),
                    "high": plain(mark.high),
                    "items": len(result.categories(suite)[name]),
                }
                for variant, mark in marks.items()
            }
            for name, marks in score_by_category(result, suite).items()
        }
        for suite in result.suites
    }
