# SPDX-License-Identifier: Apache-2.0
"""What a study was to test: each claim of its file with its difference, its interval, and whether it holds.

    {better: A, than: B}       holds where A - B > 0 was seen
    {at_least: A, as: B}       holds where A - B >= 0 was seen: one-sided, since only "less" would be against it
    {no_difference: [A, B]}    holds where the interval of A - B includes 0; how large a difference it includes is said

Seen: p <= 0.05 after Holm's correction over all claims of a suite. A claim whose opposite was seen does not hold; where
neither was seen, it is `not shown`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from luthier.evaluate.significance import ALPHA
from luthier.study.comparisons import compared
from luthier.study.rows import plain
from luthier.study.said import Said, as_data, said
from luthier.study.table import interval

if TYPE_CHECKING:
    from luthier.study.comparisons import Difference
    from luthier.study.results import StudyResult

NOT_SHOWN: Final = "not shown"
Holds = bool | Literal["not shown"]


class Claim(Protocol):
    """A claim as the study file has it."""

    @property
    def kind(self) -> str:
        """`better`, `at_least` or `no_difference`."""

    @property
    def first(self) -> str:
        """A."""

    @property
    def second(self) -> str:
        """B."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim and what the study says to it.

    Attributes:
        kind: As in :class:`Claim`.
        suite: On which items.
        difference: A minus B, corrected over the claims of the suite.
        holds: True, False or `not shown`.
    """

    kind: str
    suite: str
    difference: Difference
    holds: Holds

    @property
    def claim(self) -> Said:
        """The claim in words."""
        return said(f"claim_{self.kind}", first=self.difference.first, second=self.difference.second)

    @property
    def sentence(self) -> Said:
        """The claim, whether it holds, and the numbers."""
        found = self.difference
        if math.isnan(found.estimate.value):
            return said("claim_unfinished", claim=self.claim)
        word = "open" if self.holds == NOT_SHOWN else "holds" if self.holds else "fails"
        numbers = [interval(found.estimate, "+"), _p(found.p_holm), said("claim_one_seed") if found.seeds == 1 else ""]
        given = [number for number in numbers if number]
        return said(f"claim_{word}", claim=self.claim, numbers=given, besides=self._besides())

    def _besides(self) -> str:
        """What a bare verdict would hide."""
        found = self.difference.estimate
        if self.kind == "no_difference" and self.holds is True:
            reach = max(abs(found.low), abs(found.high))
            return said("claim_reach", reach=f"{reach:.3f}")
        if self.holds == NOT_SHOWN and not math.isnan(self.difference.smallest):
            return said("power", value=f"{self.difference.smallest:.3f}")
        return ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found = self.difference
        return {
            "claim": self.claim,
            "kind": self.kind,
            "first": found.first,
            "second": found.second,
            "suite": self.suite,
            "delta": plain(found.estimate.value),
            "delta_stderr": plain(found.estimate.stderr),
            "delta_low": plain(found.estimate.low),
            "delta_high": plain(found.estimate.high),
            "p": plain(found.p),
            "p_holm": plain(found.p_holm),
            "smallest": plain(found.smallest),
            "holds": self.holds,
            "sentence": as_data(self.sentence),
        }


def judged(result: StudyResult) -> list[Judged]:
    """Every claim of the study, in its order; empty where it has none."""
    claims: tuple[Claim, ...] = getattr(result.design.study, "claims", ())
    suites = [_suite(result, getattr(claim, "on", None)) for claim in claims]
    found: dict[int, Difference] = {}
    for suite in dict.fromkeys(suites):
        mine = [place for place, name in enumerate(suites) if name == suite]
        pairs = [(claims[place].first, claims[place].second) for place in mine]
        found |= dict(zip(mine, compared(result, pairs, suite), strict=True))
    return [
        Judged(kind=claim.kind, suite=suites[place], difference=found[place], holds=_holds(claim.kind, found[place]))
        for place, claim in enumerate(claims)
    ]


def _holds(kind: str, found: Difference) -> Holds:
    value, p = found.estimate.value, found.p_holm
    if math.isnan(value) or math.isnan(found.estimate.stderr):
        return NOT_SHOWN
    seen = p <= ALPHA
    if kind == "no_difference":
        if seen:
            return False
        return True if found.estimate.low <= 0.0 <= found.estimate.high else NOT_SHOWN
    if value < 0.0:
        return False if seen else NOT_SHOWN
    if kind == "at_least":
        return True if p / 2.0 <= ALPHA else NOT_SHOWN
    return True if seen else NOT_SHOWN


def _suite(result: StudyResult, name: str | None) -> str:
    """The suite that a claim is on: `embedded` also stands for `embedded-first-100`."""
    return next((found for found in result.suites if name in (found, found.rsplit("-first-", 1)[0])), result.suite)


def _p(p: float) -> str:
    return "" if math.isnan(p) else ("p < 0.001" if p < 0.001 else f"p = {p:.3f}")
