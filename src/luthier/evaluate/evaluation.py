# SPDX-License-Identifier: Apache-2.0
"""An evaluation: what a model said to each item of a suite, judged, with intervals, as data and as JSON Lines."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.evaluate.bootstrap import bootstrap
from luthier.evaluate.judged import metric_of
from luthier.evaluate.macro import spread_of_macro

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from luthier.evaluate.items import Item
    from luthier.evaluate.judged import Judged, Prediction
    from luthier.evaluate.statistics import Estimate
    from luthier.evaluate.suite import Suite


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's answers to a suite.

    Attributes:
        suite: What was asked.
        judged: Metrics.
        rows: What was said to each item, as plain data.
        seconds: Wall-clock.
        parts: Category -> the metric of its items, where there are several categories and it is no mean.
        notes: What else is to be known, such as how many items were generated together: in bfloat16 a reply may turn on
            it (1 or 2 of 600 did).
    """

    suite: Suite
    judged: Judged
    rows: Sequence[Prediction]
    seconds: float = 0.0
    parts: Mapping[str, Judged] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def estimate(self) -> Estimate:
        """The metric with its 95 % interval over items, or over groups of them."""
        return _estimate(self.judged, groups_of(self.suite.items))

    @cached_property
    def by_category(self) -> dict[str, Estimate]:
        """Category -> the metric of its items with its interval, in alphabetical order; empty without two of them."""
        places = places_by_category(self.suite.items)
        return {
            name: _estimate(self.parts[name], groups_of([self.suite.items[place] for place in places[name]]))
            for name in self.parts
        }

    @cached_property
    def macro(self) -> Estimate | None:
        """The plain mean of categories with its interval; None without categories, or where the metric is no mean."""
        if not self.parts or not metric_of(self.judged.metric).is_mean:
            return None
        spread = spread_of_macro(self.judged.values.tolist(), [item.category for item in self.suite.items])
        known = metric_of(self.judged.metric)
        return bootstrap([[spread]], groups_of(self.suite.items), limits=(known.low, known.high))[0]

    def to_json(self) -> dict[str, Any]:
        """The entry of `summary.json` under `evaluation`."""
        told: dict[str, Any] = {
            "metric": self.judged.metric,
            "value": _plain(self.judged.value),
            **_ends(self.estimate),
            "items": len(self.judged.values),
            "metrics": {name: _plain(value) for name, value in self.judged.metrics.items()},
        }
        if self.macro is not None:
            told["macro_average"] = {"value": _plain(self.macro.value), **_ends(self.macro)}
        if self.by_category:
            places = places_by_category(self.suite.items)
            told["by_category"] = {
                name: {"value": _plain(self.parts[name].value), **_ends(found), "items": len(places[name])}
                for name, found in self.by_category.items()
            }
        refused = {"refused": dict(self.suite.refused)} if self.suite.refused else {}
        return {**told, **refused, "digest": self.suite.digest, "seconds": self.seconds, **self.notes}

    def write(self, path: Path) -> None:
        """Write predictions as JSON Lines: one line an item; `right` is what it adds to the metric."""
        lines = []
        for item, row, value in zip(self.suite.items, self.rows, self.judged.values.tolist(), strict=True):
            marks = {name: mark for name in ("category", "group") if (mark := getattr(item, name))}
            lines.append(json.dumps({**row, **marks, "right": row.get("right", value)}, ensure_ascii=False) + "\n")
        writing = path.with_name(f"{path.name}.writing")
        writing.write_text("".join(lines), encoding="utf-8")
        writing.replace(path)


def groups_of(items: Sequence[Item]) -> np.ndarray | None:
    """The number of each item's group, as :func:`group_numbers` has it."""
    return group_numbers([item.group for item in items])


def group_numbers(names: Sequence[str]) -> np.ndarray | None:
    """Groups by number; None where every item stands alone. An item without a group is its own.

    Example:
        >>> group_numbers(["a", "", "a"]).tolist(), group_numbers(["", ""])
        ([0, 1, 0], None)
    """
    keys = [name or place for place, name in enumerate(names)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys]) if len(numbers) < len(keys) else None


def places_by_category(items: Sequence[Item]) -> dict[str, list[int]]:
    """Category -> places of its items, in alphabetical order; empty where there are fewer than two."""
    found: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        found.setdefault(item.category, []).append(place)
    return {name: found[name] for name in sorted(found)} if len(found) > 1 else {}


def _estimate(judged: Judged, groups: np.ndarray | None) -> Estimate:
    known = metric_of(judged.metric)
    if known.is_log and 0.0 < judged.value < math.inf:
        # Shares of exp(x) are shares of x to first order: x + (share - exp(x)) / exp(x).
        logs = math.log(judged.value) + (judged.values - judged.value) / judged.value
        found = bootstrap([logs[None, :]], groups)[0]
        ends = {"low": math.exp(found.low), "high": math.exp(found.high)}
        return replace(found, value=judged.value, stderr=judged.value * found.stderr, **ends)
    inside = known.low <= judged.value <= known.high  # one of another program may have another scale
    limits = (known.low, known.high) if inside else (-math.inf, math.inf)
    return bootstrap([judged.values[None, :]], groups, limits=limits)[0]


def _ends(found: Estimate) -> dict[str, float | None]:
    return {"stderr": _plain(found.stderr), "low": _plain(found.low), "high": _plain(found.high)}


def _plain(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
