# SPDX-License-Identifier: Apache-2.0
"""Scores with 95 % intervals: averages, turns, categories and their mean; a question is drawn anew with its turns.

Two turns of a conversation succeed or fail together, so they are one cluster. The mean of categories is that of
`evaluate.macro`, which is BELLE's average score.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from luthier.evaluate.bootstrap import bootstrap
from luthier.evaluate.macro import category_means, macro_average, spread_of_macro
from luthier.judge.table import TURNS, outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from luthier.evaluate.statistics import Estimate
    from luthier.judge.bench import Id
    from luthier.judge.judgments import Compared, Rated

_WORTH = {"win": 1.0, "tie": 0.5, "loss": 0.0}


def intervals(rows: Sequence[Rated], scale: tuple[float, float]) -> dict[str, dict[str, Estimate]]:
    """Model -> `turn_1`, `turn_2` and `average` with their intervals.

    Args:
        rows: Judgments; those without a rating are left out.
        scale: The lowest and the highest rating: intervals end there, unless a rating lies outside.
    """
    found: dict[str, dict[str, Estimate]] = {}
    for model, own in _by_model(rows).items():
        parts = {f"turn_{turn}": [row for row in own if row.turn == turn] for turn in TURNS} | {"average": own}
        found[model] = {name: estimate(part, scale) for name, part in parts.items() if part}
    return found


def estimate(rows: Sequence[Rated], scale: tuple[float, float]) -> Estimate:
    """Mean score of rows, questions drawn anew."""
    return _estimate([row.score for row in rows], [row.question for row in rows], scale)


def by_category(
    rows: Sequence[Rated], categories: Mapping[Id, str], scale: tuple[float, float]
) -> dict[str, dict[str, Estimate]]:
    """Model -> category -> mean score over both turns with its interval, in the order of `categories`."""
    order = list(dict.fromkeys(categories.values()))
    found = {}
    for model, own in _by_model(rows).items():
        parts = {name: [row for row in own if categories.get(row.question) == name] for name in order}
        found[model] = {name: estimate(part, scale) for name, part in parts.items() if part}
    return found


def macro(rows: Sequence[Rated], categories: Mapping[Id, str], scale: tuple[float, float]) -> dict[str, Estimate]:
    """Model -> the plain mean of its categories' means, with its interval."""
    found = {}
    for model, own in _by_model(rows).items():
        known = [row for row in own if row.question in categories]
        if known:
            scores, names = [row.score for row in known], [categories[row.question] for row in known]
            around = _estimate(spread_of_macro(scores, names), [row.question for row in known], scale)
            found[model] = replace(
                around, value=macro_average(category_means(scores, names))
            )  # without rounding's noise
    return found


def win_intervals(rows: Iterable[Compared], baseline: str | None = None) -> dict[str, Estimate]:
    """Model -> adjusted win rate (a tie is half a win) with its interval."""
    kept = [row for row in rows if row.counts and (baseline is None or baseline in row.models)]
    models = dict.fromkeys(model for row in kept for model in row.models if model != baseline)
    found = {}
    for model in models:
        own = [row for row in kept if model in row.models]
        worth = [_WORTH[outcome(row, model)] for row in own]
        found[model] = _estimate(worth, [row.question for row in own], (0.0, 1.0))
    return found


def differences(rows: Sequence[Rated], baseline: str) -> dict[str, Estimate]:
    """Model -> mean of its scores minus the baseline's on the questions and turns that both have, with its interval."""
    by_model = _by_model(rows)
    base = {(row.question, row.turn): row.score for row in by_model.get(baseline, [])}
    found = {}
    for model, own in by_model.items():
        shared = [row for row in own if (row.question, row.turn) in base]
        if model != baseline and shared:
            apart = [row.score - base[row.question, row.turn] for row in shared]
            found[model] = _estimate(apart, [row.question for row in shared], (-math.inf, math.inf))
    return found


def _by_model(rows: Sequence[Rated]) -> dict[str, list[Rated]]:
    models = dict.fromkeys(row.model for row in rows if row.counts)
    return {model: [row for row in rows if row.counts and row.model == model] for model in models}


def _estimate(values: Sequence[float], questions: Sequence[Id], scale: tuple[float, float]) -> Estimate:
    places: dict[Id, int] = {}
    groups = np.array([places.setdefault(one, len(places)) for one in questions])
    inside = min(values) >= scale[0] and max(values) <= scale[1]
    return bootstrap([[values]], groups, limits=scale if inside else (-math.inf, math.inf))[0]
