# SPDX-License-Identifier: Apache-2.0
"""An item of a suite, which is asked once and counted once, and what a model said; kinds have items of their own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luthier.evaluate.judged import Prediction


@dataclass(frozen=True, kw_only=True)
class Item:
    """What every kind's items have.

    Attributes:
        category: For scores by category and their plain mean.
        group: Items with the same group (the turns of a dialogue, the questions on one text) are one unit of error.
    """

    category: str = ""
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a model said to the items of a suite.

    Attributes:
        rows: To each, as plain data.
        notes: What else is to be known of how it was asked.
        known: What judging needs of the model besides; None where the rows are enough.
    """

    rows: Sequence[Prediction]
    notes: Mapping[str, Any] = field(default_factory=dict)
    known: Any = None

    def of(self, places: Sequence[int]) -> Said:
        """Of some items."""
        return replace(self, rows=[self.rows[place] for place in places])
