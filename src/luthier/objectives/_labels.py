# SPDX-License-Identifier: Apache-2.0
"""What objectives of classes share: their keys, the weights of classes, and the cross entropy over them.

Shapes: K labelled items, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional as F

from luthier.core.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from luthier.core.tasks import Labels

Weight = Annotated[float, Field(ge=0.0)]
WHERE = "objective.class_weights"


class LabelConfig(BaseModel):
    """Keys that objectives of classes have in common."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    class_weights: Literal["none", "balanced"] | dict[str, Weight] = "none"
    """`balanced`: rare classes weigh more, each rows / (classes x its rows); or `{name: weight}`, 1 where not named."""
    label_smoothing_factor: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target that is spread over all classes, as in transformers' TrainingArguments."""


def weights_of(config: LabelConfig, labels: Labels | None) -> torch.Tensor | None:
    """The weight of each class, float64 [C]; None where all weigh 1.

    Raises:
        RecipeError: A class is unknown, or nothing is known of how often each stands in the training rows.
    """
    chosen = config.class_weights
    if chosen == "none" or labels is None:
        return None
    if chosen == "balanced":
        if not labels.counts:
            raise RecipeError(WHERE, "balanced, of labels without counts", "none, or {name: weight}", "name weights")
        counts = torch.tensor(labels.counts, dtype=torch.float64)
        known = int((counts > 0).sum())  # a class that no row has needs no weight
        return torch.where(counts > 0, counts.sum() / (known * counts.clamp(min=1.0)), torch.zeros(()))
    if unknown := [name for name in chosen if name not in labels.names]:
        raise RecipeError(WHERE, f"unknown class {unknown[0]!r}", did_you_mean(unknown[0], labels.names), "correct it")
    return torch.tensor([float(chosen.get(name, 1.0)) for name in labels.names], dtype=torch.float64)


def cross_entropy(
    logits_KC: torch.Tensor, target_K: torch.Tensor, weights_C: torch.Tensor | None, smoothing: float
) -> torch.Tensor:
    """The sum over items of the weighted, smoothed cross entropy, a scalar.

    Weights do not divide the sum: torch's mean divides each batch by its own weights, so that the weight of a row
    depends on which others it stands beside, and every split into micro-batches gives another gradient.

    Args:
        logits_KC: Logits, float32 at least.
        target_K: Classes, int64.
        weights_C: Of classes, or None.
        smoothing: Share of the target that is spread over all classes.
    """
    weights = None if weights_C is None else weights_C.to(logits_KC)
    return F.cross_entropy(logits_KC, target_K, weight=weights, label_smoothing=smoothing, reduction="sum")
