# SPDX-License-Identifier: Apache-2.0
"""IPO: log-ratios of chosen and rejected are pulled to a fixed distance, and no further.

Shapes: S scored tokens, N segments, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.core.trainable import Loss
from luthier.objectives._answers import answers_of, count_pairs, pair_metrics, pairs_of, ratios_of
from luthier.objectives._reference import Positive, ReferenceConfig

if TYPE_CHECKING:
    import torch

    from luthier.kernels.forest import Forest

ROWS = "judged"


class Config(ReferenceConfig):
    """IPO's keys, spelt as in TRL's DPOConfig."""

    beta: Positive = 0.1
    """The paper's tau: log-ratios of chosen and rejected shall differ by 1 / (2 beta)."""
    length_normalized: bool = True
    """Log-ratios per token, as the authors ran it and TRL does; false: their sums, as the paper writes it."""


@dataclass(frozen=True)
class Ipo:
    """(h - 1 / (2 beta))^2 with h the log-ratio of chosen minus that of rejected, per token.

    Reference:
        Azar et al., arXiv 2310.12036, equation 17.
    """

    config: Config
    reference: bool = True

    @property
    def loss_at_start(self) -> float:
        """1 / (4 beta^2): h is 0 while policy and reference are one."""
        return 0.25 / self.config.beta**2

    def units(self, forest: Forest) -> int:
        """Pairs."""
        return count_pairs(forest)

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:
        """The sum over pairs.

        Args:
            outputs: Log-probability of each scored token, [S].
            forest: With grades and the reference's log-probabilities.
        """
        answers = answers_of(outputs, forest)
        pairs = pairs_of(forest, answers.logps)
        ratios = ratios_of(answers)
        scores = ratios / answers.lengths if self.config.length_normalized else ratios
        distance = scores[pairs.better] - scores[pairs.worse] - 0.5 / self.config.beta
        return Loss(
            total=distance.square().sum(),
            metrics=pair_metrics(answers, pairs, self.config.beta * ratios, answers.logps),
        )


def bind(config: Config) -> Ipo:
    """The objective for one run."""
    return Ipo(config)
