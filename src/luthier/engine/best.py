# SPDX-License-Identifier: Apache-2.0
"""Which evaluation is the best one so far: `train.metric_for_best_model` and `train.greater_is_better`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from luthier.core.errors import RecipeError, did_you_mean
from luthier.engine.step import evaluate_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.engine.work import Work
    from luthier.recipe.schema import Train

ERRORS = ("loss", "mse", "kl")  # words of values that are better where they are lower


def metric_of(train: Train) -> str:
    """The value that decides, by its name in an evaluation."""
    return train.metric_for_best_model.removeprefix("eval_")


def greater(train: Train) -> bool:
    """Whether more of it is better.

    Example:
        >>> from luthier.recipe.schema import Train
        >>> greater(Train()), greater(Train(metric_for_best_model="eval_f1"))
        (False, True)
    """
    if train.greater_is_better is not None:
        return train.greater_is_better
    return not any(word in ERRORS for word in metric_of(train).replace("/", "_").split("_"))


def is_better(train: Train, values: Mapping[str, float], best: Mapping[str, float]) -> bool:
    """Whether an evaluation is better than the best one; one whose value is not finite never is."""
    name = metric_of(train)
    value, before = values.get(name, math.nan), best.get(name, math.nan)
    if not math.isfinite(value):
        return False
    return math.isnan(before) or (value > before if greater(train) else value < before)


def check_metric(work: Work) -> None:
    """All ranks: refuse a metric that evaluations do not have, before the first step; one batch is evaluated for that.

    Raises:
        RecipeError: They do not have it.
    """
    name = metric_of(work.recipe.train)
    if name == "loss" or not work.eval_batches:
        return
    known = evaluate_loss(work.trainable.model, work.objective, work.eval_batches[:1], work.refer, work.ranks)
    if name not in known:
        where, received = "train.metric_for_best_model", f"unknown metric {name!r}"
        raise RecipeError(where, received, did_you_mean(name, known), "name one of the evaluation's values")
