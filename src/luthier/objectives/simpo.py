# SPDX-License-Identifier: Apache-2.0
"""SimPO: the chosen answer's log-probability per token exceeds the rejected one's by a margin; no reference model.

Shapes: S scored tokens, N segments, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.core.trainable import Loss
from luthier.objectives._answers import answers_of, count_pairs, pair_metrics, pairs_of, smoothed_logistic
from luthier.objectives._reference import AnswerConfig, Positive, Smoothing, Weight

if TYPE_CHECKING:
    import torch

    from luthier.kernels.forest import Forest

ROWS = "judged"


class Config(AnswerConfig):
    """SimPO's keys, spelt as in TRL's CPOConfig."""

    beta: Positive = 2.0
    """Scale of the reward, beta times the log-probability per token; the paper uses 2.0 to 2.5."""
    simpo_gamma: Weight = 0.5
    """Margin by which the chosen answer's reward shall be higher; the paper uses 0.3 to 1.6."""
    label_smoothing: Smoothing = 0.0
    """Probability that a label is wrong."""
    sft_weight: Weight = 0.0
    """Weight of the chosen answer's negative log-likelihood per token (TRL's cpo_alpha)."""


@dataclass(frozen=True)
class Simpo:
    """-log sigmoid(beta (log p(chosen) / |chosen| - log p(rejected) / |rejected|) - gamma).

    Reference:
        Meng et al., arXiv 2405.14734, equation 6.
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
            outputs: Log-probability of each scored token, [S].
            forest: With grades.
        """
        config = self.config
        answers = answers_of(outputs, forest)
        pairs = pairs_of(forest, answers.logps)
        rewards = config.beta * answers.mean_logps
        logits = rewards[pairs.better] - rewards[pairs.worse] - config.simpo_gamma
        total = smoothed_logistic(logits, config.label_smoothing).sum()
        metrics = pair_metrics(answers, pairs, rewards, answers.mean_logps)
        if config.sft_weight:
            nll = -answers.mean_logps[pairs.better].sum()
            total = total + config.sft_weight * nll
            metrics["nll_loss"] = nll.detach()
        return Loss(total=total, metrics=metrics)


def bind(config: Config) -> Simpo:
    """The objective for one run."""
    return Simpo(config)
