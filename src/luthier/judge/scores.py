# SPDX-License-Identifier: Apache-2.0
"""Scores with 95 % intervals: averages, turns, categories and their mean; a question is drawn anew with its turns.

Two turns of a conversation succeed or fail together, so they are one cluster. The mean of categories is not a mean of
rows; with n_c rows of C categories, N in all, and x̄_c the mean of a category, each row stands for

    v_i  =  macro + N / (C n_c) (x_i - x̄_c)

whose mean is `macro` and whose variance is that of the mean of C separate means: categories are not drawn anew.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from luthier.evaluate.bootstrap import bootstrap
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


def spread_of_macro(scores: Sequence[float], categories: Sequence[str]) -> list[float]:
    """What each row stands for in the mean of categories (the formula above).

    Example:
        >>> values = spread_of_macro([1.0, 0.0, 0.0, 1.0], ["a", "b", "b", "b"])
        >>> [round(value, 3) for value in values], round(sum(values) / 4, 6)
        ([0.667, 0.444, 0.444, 1.111], 0.666667)
    """
    counts, means = Counter(categories), category_means(scores, categories)
    middle = macro_average(means)
    scale = len(scores) / len(counts)
    return [
        middle + scale / counts[name] * (score - means[name]) for score, name in zip(scores, categories, strict=True)
    ]


def category_means(scores: Sequence[float], categories: Sequence[str]) -> dict[str, float]:
    """Category -> mean of its scores."""
    parts: dict[str, list[float]] = {}
    for score, name in zip(scores, categories, strict=True):
        parts.setdefault(name, []).append(score)
    return {name: math.fsum(part) / len(part) for name, part in parts.items()}


def macro_average(by_name: Mapping[str, float]) -> float:
    """The plain mean over categories, whatever their sizes: BELLE's average score."""
    return math.fsum(by_name.values()) / len(by_name)


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
