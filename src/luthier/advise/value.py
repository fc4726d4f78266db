# SPDX-License-Identifier: Apache-2.0
"""One advised value: a recipe key, what to write there, why, who says so, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from luthier.advise.sources import SOURCES

Sure = Literal["high", "fair", "low"]
SURE = {
    "high": "counted on your model, rows or memory, or agreed on by several sources at this size",
    "fair": "published, or measured by us, at a size or on rows like yours",
    "low": "carried over from other sizes, or a habit: the first values to tune",
}


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One row.

    Attributes:
        key: Dotted recipe key.
        value: What to write there.
        reason: Why, in a sentence.
        sources: Names in `sources.SOURCES`.
        sure: See `SURE`.
        means: Other values that are as good: `auto` and what it comes to, linear and cosine.
    """

    key: str
    value: Any
    reason: str
    sources: tuple[str, ...]
    sure: Sure
    means: tuple[Any, ...] = ()

    def agrees(self, given: Any) -> bool:
        """Whether a recipe's value is this one, or one that is as good.

        Example:
            >>> row = Advice(key="optim.learning_rate", value=2e-4, reason="", sources=("qlora",), sure="fair")
            >>> row.agrees(0.0002), row.agrees(1e-4)
            (True, False)
        """
        return any(_equal(value, given) for value in (self.value, *self.means))

    def told_sources(self) -> str:
        """The sources with their places."""
        return "; ".join(str(SOURCES[name]) for name in self.sources)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        found = [SOURCES[name]._asdict() for name in self.sources]
        return {"key": self.key, "value": self.value, "reason": self.reason, "sources": found, "sure": self.sure}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return sorted(map(str, one)) == sorted(map(str, other))
    return bool(one == other)
