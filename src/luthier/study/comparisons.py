# SPDX-License-Identifier: Apache-2.0
"""Scores with intervals, and differences with intervals, p and verdict: the one place where a verdict is made.

A family is the comparisons that are made together; Holm's correction is over it. The table of a suite is one family,
each kind of sentence below the table one, the claims of a study one, the categories in `forgetting` one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from luthier.evaluate.bootstrap import bootstrap
from luthier.evaluate.judged import metric_of
from luthier.evaluate.significance import ALPHA, holm, p_value, smallest_seen
from luthier.evaluate.statistics import Estimate, paired, summed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.study.results import StudyResult

UNKNOWN = Estimate(value=math.nan, stderr=math.nan)
UNSEEN = "no difference seen"
Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Score of one variant minus another's, over the seeds that both finished.

    Attributes:
        first: The variant that is compared.
        second: The one that it is held against.
        estimate: With standard error and 95 % interval; NaN where nothing can be compared.
        p: Of the sign-flip test, and with several seeds of the t test if that is larger.
        p_holm: Corrected for the family.
        smallest: The smallest difference that this comparison would have shown, with 80 % power at the corrected 5 %.
        seeds: How many both finished (1 where neither depends on a seed).
    """

    first: str
    second: str
    estimate: Estimate
    p: float = math.nan
    p_holm: float = math.nan
    smallest: float = math.nan
    seeds: int = 0

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `no difference seen` or `error unknown`; "" where nothing can be compared."""
        if math.isnan(self.estimate.value):
            return ""
        if math.isnan(self.estimate.stderr):
            return "error unknown"
        if self.p_holm > ALPHA:
            return UNSEEN
        return "better" if self.estimate.value > 0 else "worse"


def scores(result: StudyResult, suite: str, category: str | None = None) -> dict[str, Estimate]:
    """Mean score of each variant over its seeds and the suite's items (or those of a category), with intervals."""

    def find() -> dict[str, Estimate]:
        kept, groups_N = _kept(result, suite, category)
        tables = {
            variant: np.stack(list(found.values()))[:, kept]
            for variant in result.variants
            if (found := result.verdicts(variant, suite))
        }
        estimates = bootstrap(list(tables.values()), groups_N, limits=_limits(result, suite))
        return dict(zip(tables, estimates, strict=True))

    return result.remembered(("scores", suite, category), find)


def compared(
    result: StudyResult, pairs: Sequence[tuple[str, str]], suite: str, category: str | None = None
) -> list[Difference]:
    """Compare pairs of variants as one family."""
    return result.remembered(
        ("compared", tuple(pairs), suite, category),
        lambda: corrected(_alone(result, pairs, suite, category)),
    )


def by_category(result: StudyResult, pairs: Sequence[tuple[str, str]], suite: str) -> dict[str, list[Difference]]:
    """Compare pairs of variants in every category of a suite, all as one family: category -> differences."""
    names = list(result.categories(suite))
    done = corrected([difference for name in names for difference in _alone(result, pairs, suite, name)])
    count = len(pairs)
    return {name: done[place * count : (place + 1) * count] for place, name in enumerate(names)}


def corrected(found: list[Difference]) -> list[Difference]:
    """Holm's correction over a family, and what each comparison could have seen at its level."""
    tested = sum(not math.isnan(difference.p) for difference in found)
    return [
        replace(difference, p_holm=p, smallest=smallest_seen(difference.estimate, tested))
        for difference, p in zip(found, holm([difference.p for difference in found]), strict=True)
    ]


def _alone(result: StudyResult, pairs: Sequence[tuple[str, str]], suite: str, category: str | None) -> list[Difference]:
    """Each pair by itself, not corrected yet."""
    kept, groups_N = _kept(result, suite, category)
    tables = {
        place: table[:, kept]
        for place, pair in enumerate(pairs)
        if (table := differences(result, *pair, suite)) is not None
    }
    low, high = _limits(result, suite)
    drawn = bootstrap(list(tables.values()), groups_N, limits=(low - high, high - low))
    estimates = dict(zip(tables, drawn, strict=True))
    found = []
    for place, (first, second) in enumerate(pairs):
        difference = Difference(first=first, second=second, estimate=UNKNOWN)
        if place in tables:
            table, estimate = tables[place], estimates[place]
            p = p_value(estimate, summed(table, groups_N).sum(axis=0), len(table))
            difference = replace(difference, estimate=estimate, p=p, seeds=len(table))
        found.append(difference)
    return found


def differences(result: StudyResult, first: str, second: str, suite: str) -> Numbers | None:
    """Paired differences [S, N] over the seeds that both finished; None where there are none.

    The model before training has no seed; it stands against every seed of the other.
    """
    one, two = result.verdicts(first, suite), result.verdicts(second, suite)
    seeds = [seed for seed in one if seed in two or None in two] or ([*two] if None in one else [])
    if not seeds or not one or not two:
        return None
    return paired(*(np.stack([v[s] if s in v else v[None] for s in seeds]) for v in (one, two)))


def _limits(result: StudyResult, suite: str) -> tuple[float, float]:
    """What a score can be at all."""
    known = metric_of(result.metric(suite))
    return known.low, known.high


def _kept(result: StudyResult, suite: str, category: str | None) -> tuple[Any, Places | None]:
    """The items of a category (or all), and the number of each one's group among those."""
    kept = slice(None) if category is None else result.categories(suite)[category]
    groups_N = result.groups(suite)
    return kept, None if groups_N is None else np.unique(groups_N[kept], return_inverse=True)[1]
