# SPDX-License-Identifier: Apache-2.0
"""ORPO: the chosen answer's likelihood, and the odds of chosen against rejected, in one stage; no reference model.

Shapes: S scored tokens, N segments, P pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from luthier.core.trainable import Loss
from luthier.objectives._answers import answers_of, count_pairs, pair_metrics, pairs_of
from luthier.objectives._reference import AnswerConfig, Positive

if TYPE_CHECKING:
    from luthier.kernels.forest import Forest

ROWS = "judged"


class Config(AnswerConfig):
    """ORPO's keys, spelt as in TRL's ORPOConfig."""

    beta: Positive = 0.1
    """The paper's lambda: weight of the odds ratio beside the likelihood."""


@dataclass(frozen=True)
class Orpo:
    """-log p(chosen) / |chosen| - beta log sigmoid(log odds(chosen) - log odds(rejected)).

    The probability of an answer is that of its tokens' geometric mean, p = exp(log p(answer) / |answer|), and
    odds = p / (1 - p).

    Reference:
        Hong et al., arXiv 2403.07691, equations 3 to 7.
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
        answers = answers_of(outputs, forest)
        pairs = pairs_of(forest, answers.logps)
        logps = answers.mean_logps
        odds = log_odds(logps[pairs.better]) - log_odds(logps[pairs.worse])
        nll = -logps[pairs.better].sum()
        ratio = F.logsigmoid(odds).sum()
        metrics = pair_metrics(answers, pairs, self.config.beta * logps, logps) | {
            "nll_loss": nll.detach(),
            "log_odds_ratio": ratio.detach(),
            "log_odds_chosen": odds.detach().sum(),
        }
        return Loss(total=nll - self.config.beta * ratio, metrics=metrics)


def log_odds(logp: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of log p <= 0, without cancellation near either end.

    A probability that rounds to 1 counts as 1 - eps, so that its odds stay finite; its gradient is the one there.

    Example:
        >>> [round(x, 4) for x in log_odds(torch.tensor([-1e4, math.log(0.5), 0.0])).tolist()]
        [-10000.0, 0.0, 15.9424]
    """
    limit = -torch.finfo(logp.dtype).eps
    logp = logp - (logp.detach() - limit).clamp(min=0.0)
    # log(1 - e^x): by expm1 near 0 and by log1p far from it, changing over at -ln 2 (Maechler, log1mexp, 2012). Each
    # branch gets a harmless number where the other one counts: an infinite slope times 0 would make the gradient NaN.
    near = logp > -math.log(2.0)
    half = torch.full_like(logp, -math.log(2.0))
    close = torch.log(-torch.expm1(torch.where(near, logp, half)))
    far = torch.log1p(-torch.exp(torch.where(near, half, logp)))
    return logp - torch.where(near, close, far)


def bind(config: Config) -> Orpo:
    """The objective for one run."""
    return Orpo(config)
