# SPDX-License-Identifier: Apache-2.0
"""One optimiser step: any number of micro-batches, one normalisation, one update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from luthier.kernels.forest import plant
from luthier.models import scored_logprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.trainable import Objective
    from luthier.core.types import Tree


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step's forward and backward passes found.

    Attributes:
        loss: The objective per unit, over the whole step.
        units: What the loss was divided by.
        tokens: Real tokens.
        scored_tokens: Scored tokens.
        metrics: The objective's own, per unit.
        rows: Data rows that took part.
    """

    loss: float
    units: int
    tokens: int
    scored_tokens: int
    metrics: dict[str, float]
    rows: tuple[str, ...]


def accumulate(model: torch.nn.Module, objective: Objective, micro_batches: Sequence[Sequence[Tree]]) -> StepResult:
    """Add the gradient of one optimiser step to the parameters.

    The loss is divided by the units of all micro-batches together, so every split gives the same gradient.
    """
    forests = [plant(trees) for trees in micro_batches if trees]
    units = sum(objective.units(forest) for forest in forests)
    device = next(model.parameters()).device
    total = torch.zeros((), dtype=torch.float64, device=device)
    metrics: dict[str, torch.Tensor] = {}
    for forest in forests:
        placed = forest.to(device)
        loss = objective.loss(scored_logprobs(model, placed), placed)  # type: ignore[arg-type]
        if loss.total.requires_grad:
            (loss.total / units).backward()
        total += loss.total.detach()
        for name, value in loss.metrics.items():
            metrics[name] = metrics.get(name, torch.zeros_like(value)) + value.detach()
    return StepResult(
        loss=float(total) / units,
        units=units,
        tokens=sum(forest.num_tokens for forest in forests),
        scored_tokens=sum(forest.num_scored for forest in forests),
        metrics={name: float(value) / units for name, value in metrics.items()},
        rows=tuple(row for forest in forests for row in forest.rows),
    )


@torch.no_grad()
def evaluate_loss(model: torch.nn.Module, objective: Objective, batches: Sequence[Sequence[Tree]]) -> dict[str, float]:
    """The objective over evaluation batches, without dropout: `{"loss": …}` and its metrics."""
    was_training = model.training
    model.eval()
    try:
        sums: dict[str, float] = {}
        units = 0
        device = next(model.parameters()).device
        for trees in batches:
            forest = plant(trees).to(device)
            loss = objective.loss(scored_logprobs(model, forest), forest)  # type: ignore[arg-type]
            units += objective.units(forest)
            for name, value in {"loss": loss.total, **loss.metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return {name: value / units for name, value in sums.items()}
    finally:
        model.train(was_training)
