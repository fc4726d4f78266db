# SPDX-License-Identifier: Apache-2.0
"""Reward model: a value for each answer such that the better of two has the higher one (Bradley-Terry).

Shapes: N segments, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional as F

from luthier.core.trainable import Loss
from luthier.objectives._answers import count_pairs, pairs_of, widened
from luthier.objectives._reference import AnswerConfig, Weight

if TYPE_CHECKING:
    import torch

    from luthier.kernels.forest import Forest

ROWS = "judged"
TASKS = ("SEQ_CLS",)


class Config(AnswerConfig):
    """The keys of a reward model, spelt as in TRL's RewardConfig where it has them."""

    center_rewards_coefficient: Weight | None = None
    """Weight of the squared sum of a pair's rewards, which keeps their mean near 0; 0.01 is usual."""
    use_margin: bool = True
    """Rewards of rows with scores shall differ by the difference of the scores; rows without scores have no margin."""


@dataclass(frozen=True)
class Reward:
    """-log sigmoid(r(chosen) - r(rejected) - margin) + c (r(chosen) + r(rejected))^2.

    References:
        Ouyang et al., arXiv 2203.02155, equation 1. Touvron et al., arXiv 2307.09288, equation 2 (margin).
        Eisenstein et al., arXiv 2312.09244 (centred rewards).
    """

    config: Config
    reference: bool = False
    loss_at_start: float | None = None

    def units(self, forest: Forest) -> int:
        """Pairs."""
        return count_pairs(forest)

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:
        """The sum over pairs.

        Args:
            outputs: Value of each segment at its last token, [N].
            forest: With grades, and with scores where the data has them.
        """
        values = widened(outputs)
        pairs = pairs_of(forest, values)
        chosen, rejected = values[pairs.better], values[pairs.worse]
        difference = chosen - rejected
        total = -F.logsigmoid(difference - pairs.margin if self.config.use_margin else difference).sum()
        if self.config.center_rewards_coefficient:
            total = total + self.config.center_rewards_coefficient * (chosen + rejected).square().sum()
        chosen, rejected, difference = chosen.detach(), rejected.detach(), difference.detach()
        return Loss(
            total=total,
            metrics={
                "accuracy": (difference > 0).to(values.dtype).sum(),
                "margin": difference.sum(),
                "mean_reward": (chosen + rejected).sum() / 2,
                "min_reward": chosen.minimum(rejected).sum(),
                "max_reward": chosen.maximum(rejected).sum(),
            },
        )


def bind(config: Config) -> Reward:
    """The objective for one run."""
    return Reward(config)
