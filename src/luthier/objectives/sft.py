# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning: the mean negative log-likelihood of the scored tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from luthier.core.trainable import Loss

if TYPE_CHECKING:
    import torch

    from luthier.kernels.forest import Forest

TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")


class Config(BaseModel):
    """Supervised fine-tuning has no keys of its own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


@dataclass(frozen=True)
class Sft:
    """-(1 / S) sum of log p(token): every scored token of the optimiser step weighs the same.

    Reference:
        Ouyang et al., arXiv 2203.02155, section 3.5, with the loss on the scored tokens only.
    """

    config: Config
    reference: bool = False
    loss_at_start: float | None = None

    def units(self, forest: Forest) -> int:
        """Scored tokens."""
        return forest.num_scored

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:  # noqa: ARG002 - other objectives read the forest
        """Minus the sum of log-probabilities [S]."""
        return Loss(total=-outputs.sum(), metrics={})


def bind(config: Config) -> Sft:
    """The objective for one run."""
    return Sft(config)
