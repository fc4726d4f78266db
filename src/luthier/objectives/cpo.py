# SPDX-License-Identifier: Apache-2.0
"""CPO: DPO with a uniform reference, beside the chosen answer's likelihood; no reference model.

Shapes: S scored tokens, N segments, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, ValidationInfo

from luthier.core.trainable import Loss
from luthier.objectives._answers import answers_of, count_pairs, pair_metrics, pairs_of, smoothed_logistic
from luthier.objectives._reference import AnswerConfig, Positive, Smoothing, Weight

if TYPE_CHECKING:
    import torch

    from luthier.kernels.forest import Forest

ROWS = "judged"


def _has_effect(value: float, info: ValidationInfo) -> float:
    if value and info.data.get("loss_type") == "hinge":
        raise ValueError("0, since loss_type hinge knows no smoothing; remove it, or take loss_type sigmoid")
    return value


class Config(AnswerConfig):
    """CPO's keys, spelt as in TRL's CPOConfig."""

    beta: Positive = 0.1
    """Scale of the difference of log-probabilities."""
    loss_type: Literal["sigmoid", "hinge"] = "sigmoid"
    """`sigmoid` as in the paper, or `hinge`: nothing is left to gain beyond a difference of 1 / beta (SLiC)."""
    label_smoothing: Annotated[Smoothing, AfterValidator(_has_effect)] = 0.0
    """Probability that a label is wrong; with `sigmoid` only."""
    cpo_alpha: Weight = 1.0
    """Weight of the chosen answer's negative log-likelihood per token."""


@dataclass(frozen=True)
class Cpo:
    """-log sigmoid(beta (log p(chosen) - log p(rejected))) - alpha log p(chosen) / |chosen|.

    References:
        Xu et al., arXiv 2401.08417, equation 3, with its behaviour cloning term.
        Zhao et al., SLiC-HF, arXiv 2305.10425 (`hinge`).
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
        rewards = config.beta * answers.logps
        logits = rewards[pairs.better] - rewards[pairs.worse]
        hinge = config.loss_type == "hinge"
        losses = (1.0 - logits).relu() if hinge else smoothed_logistic(logits, config.label_smoothing)
        total = losses.sum()
        metrics = pair_metrics(answers, pairs, rewards, answers.logps)
        if config.cpo_alpha:
            nll = -answers.mean_logps[pairs.better].sum()
            total = total + config.cpo_alpha * nll
            metrics["nll_loss"] = nll.detach()
        return Loss(total=total, metrics=metrics)


def bind(config: Config) -> Cpo:
    """The objective for one run."""
    return Cpo(config)
