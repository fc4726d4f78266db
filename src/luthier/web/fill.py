# SPDX-License-Identifier: Apache-2.0
"""Rows, categories and forgetting from the runs' predictions, where no study.json says them (yet).

Errors are those of crossed random effects over seeds and items, so intervals are normal ones; the study's own report
has bootstrap intervals and corrected p-values in their place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.evaluate.statistics import Estimate, crossed, paired_difference
from luthier.study.schema import BASE
from luthier.web.runs import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from luthier.web.runs import Seen

_KEPT = "trainable_parameters seconds cpu_seconds tokens_per_second state_bytes peak_memory_bytes flops".split()
_COSTS = {"loss": "trained_loss"} | {key: key for key in _KEPT}  # key of a row -> key of a summary
Z = 1.96  # standard errors from the middle to the end of a normal 95 % interval


def rows_of(runs: Sequence[Seen], suite: str, baseline: str) -> list[dict[str, Any]]:
    """The table of a suite, a row each variant, with the keys of study.json.

    Args:
        runs: Of the study.
        suite: Its name.
        baseline: The variant that differences are taken against.
    """
    right = {variant: _right(runs, variant, suite) for variant in dict.fromkeys(run.variant for run in runs)}
    rows = []
    for variant, mine in right.items():
        here = [run for run in runs if run.variant == variant]
        done = [run.summary for run in here if run.state == "done"]
        score = _crossed(list(mine.values()))
        delta = _difference(mine, right.get(baseline, {})) if variant != baseline else None
        base = _crossed(list(right.get(BASE, {}).values()))
        row: dict[str, Any] = {"variant": variant, "runs": len(done), "failed": sum(r.state == "failed" for r in here)}
        row |= _named("score", score) | _named("delta", delta) | {"verdict": _verdict(delta)}
        row |= {key: _mean(summary.get(name) for summary in done) for key, name in _COSTS.items()}
        gained = 100 * (score.value - base.value) if score and base else 0.0
        row["cost_per_point"] = row["seconds"] / gained if gained > 0 and row["seconds"] else None
        rows.append(row)
    return rows


def categories_of(runs: Sequence[Seen], suite: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Category -> variant -> mean score with a normal interval; empty where items have no category."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for variant in dict.fromkeys(run.variant for run in runs):
        for name, values in _by_category(runs, variant, suite).items():
            value = _crossed(values)
            assert value is not None
            low, high = interval(value)
            entry = {"value": value.value, "low": low, "high": high, "items": len(values[0])}
            found.setdefault(name, {})[variant] = entry
    return {name: found[name] for name in sorted(found)} if set(found) - {""} else {}


def forgetting_of(runs: Sequence[Seen], suite: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Variant -> category -> before, after and the paired difference; empty without the model before training."""
    before = _by_category(runs, BASE, suite)
    if not set(before) - {""}:
        return {}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for variant in dict.fromkeys(run.variant for run in runs if run.variant != BASE):
        for name, values in sorted(_by_category(runs, variant, suite).items()):
            if name in before and len(before[name][0]) == len(values[0]):
                delta = paired_difference(np.stack(values), np.stack(before[name]))
                low, high = interval(delta)
                after = float(np.mean(np.stack(values)))
                entry = {"before": after - delta.value, "after": after, "delta": delta.value, "low": low, "high": high}
                found.setdefault(variant, {})[name] = entry
    return found


def interval(value: Estimate) -> tuple[float | None, float | None]:
    """The ends of the normal 95 % interval, or None twice where the error is unknown."""
    if math.isnan(value.stderr):
        return None, None
    return value.value - Z * value.stderr, value.value + Z * value.stderr


def _right(runs: Sequence[Seen], variant: str, suite: str) -> dict[int | None, tuple[float, ...]]:
    """Seed -> verdicts, of the runs that are done; those that were asked other items than the first are left out."""
    found: dict[int | None, tuple[float, ...]] = {}
    for run in runs:
        if run.variant == variant and run.state == "done":
            values = tuple(right for _, right in verdicts(run.folder, suite))
            if values and len(values) == len(next(iter(found.values()), values)):
                found[run.seed] = values
    return found


def _by_category(runs: Sequence[Seen], variant: str, suite: str) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    for run in runs:
        if run.variant == variant and run.state == "done":
            mine: dict[str, list[float]] = {}
            for name, right in verdicts(run.folder, suite):
                mine.setdefault(name, []).append(right)
            for name, values in mine.items():
                if name not in found or len(values) == len(found[name][0]):
                    found.setdefault(name, []).append(values)
    return found


def _crossed(values: Sequence[Sequence[float]]) -> Estimate | None:
    return crossed(np.array(values)) if values else None


def _difference(one: dict[int | None, tuple[float, ...]], two: dict[int | None, tuple[float, ...]]) -> Estimate | None:
    """Paired by seed and item; the model before training has no seed and stands against every seed of the other."""
    seeds = [seed for seed in one if seed in two or None in two] or ([*two] if None in one else [])
    if not seeds or not one or not two:
        return None
    first, second = (np.array([side.get(seed) or side[None] for seed in seeds]) for side in (one, two))
    return paired_difference(first, second) if first.shape == second.shape else None


def _named(name: str, value: Estimate | None) -> dict[str, Any]:
    if value is None:
        return dict.fromkeys((name, f"{name}_stderr", f"{name}_low", f"{name}_high"))
    low, high = interval(value)
    stderr = None if math.isnan(value.stderr) else value.stderr
    return {name: value.value, f"{name}_stderr": stderr, f"{name}_low": low, f"{name}_high": high}


def _verdict(delta: Estimate | None) -> str | None:
    if delta is None:
        return None
    if math.isnan(delta.stderr):
        return "error unknown"
    low, high = interval(delta)  # of this row alone: Holm's correction needs the finished table, which study.json holds
    if low is None or high is None or low <= 0.0 <= high:
        return "no difference seen"
    return "better" if delta.value > 0 else "worse"


def _mean(values: Iterable[Any]) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float)]
    return sum(known) / len(known) if known else None
