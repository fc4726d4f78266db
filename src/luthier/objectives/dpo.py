# SPDX-License-Identifier: Apache-2.0
"""DPO: chosen answers become likelier than rejected ones, relative to a reference model.

Shapes: S scored tokens, N segments, P pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import AfterValidator, Field, ValidationInfo
from torch.nn import functional as F

from luthier.core.trainable import Loss
from luthier.objectives._answers import (
    LARGEST_EXPONENT,
    answers_of,
    count_pairs,
    pair_metrics,
    pairs_of,
    ratios_of,
    smoothed_logistic,
)
from luthier.objectives._reference import Positive, ReferenceConfig, Smoothing, Weight

if TYPE_CHECKING:
    from luthier.kernels.forest import Forest

ROWS = "judged"

OF_THE_DIFFERENCE = ("sigmoid", "hinge", "robust", "exo_pair", "discopop")
SMOOTHED = ("sigmoid", "robust", "exo_pair")
Name = Literal["sigmoid", "hinge", "robust", "exo_pair", "nca_pair", "apo_zero", "apo_down", "sppo_hard", "discopop"]
Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]


def _fits(value: float, info: ValidationInfo) -> float:
    loss_type = info.data.get("loss_type", "sigmoid")
    if loss_type == "exo_pair" and not value:
        raise ValueError(
            "a label_smoothing above 0 with loss_type exo_pair, which takes its logarithm; label_smoothing: 0.001"
        )
    if value and loss_type not in SMOOTHED:
        raise ValueError(f"0, since loss_type {loss_type} knows no smoothing; remove it, or take {', '.join(SMOOTHED)}")
    return value


def _generalises(value: Divergence, info: ValidationInfo) -> Divergence:
    loss_type = info.data.get("loss_type", "sigmoid")
    if value != "reverse_kl" and loss_type not in OF_THE_DIFFERENCE:
        known = ", ".join(OF_THE_DIFFERENCE)
        raise ValueError(f"reverse_kl, since loss_type {loss_type} has no other form; remove it, or take {known}")
    return value


def _counts_for_alpha(value: float, info: ValidationInfo) -> float:
    if value != 0.5 and info.data.get("f_divergence_type") != "alpha_divergence":
        raise ValueError("0.5, since f_divergence_type alpha_divergence alone reads it; set that, or remove this")
    return value


def _counts_for_discopop(value: float, info: ValidationInfo) -> float:
    if value != 0.05 and info.data.get("loss_type") != "discopop":
        raise ValueError("0.05, since loss_type discopop alone reads it; set that, or remove this")
    return value


class Config(ReferenceConfig):
    """DPO's keys, spelt as in TRL's DPOConfig."""

    beta: Positive = 0.1
    """How closely the policy is held to the reference; higher is closer."""
    loss_type: Name = "sigmoid"
    """What is done with a pair's log-ratios; docs/objectives.md has the formulas."""
    label_smoothing: Annotated[Smoothing, Field(validate_default=True), AfterValidator(_fits)] = 0.0
    """Probability that a label is wrong; of `sigmoid`, `robust`, and `exo_pair` (which needs one, usually 0.001)."""
    f_divergence_type: Annotated[Divergence, AfterValidator(_generalises)] = "reverse_kl"
    """What holds the policy to the reference; others than `reverse_kl` for losses of the difference alone."""
    f_alpha_divergence_coef: Annotated[float, Field(allow_inf_nan=False), AfterValidator(_counts_for_alpha)] = 0.5
    """Alpha of `alpha_divergence`: 1 is reverse_kl, 0 is forward_kl."""
    discopop_tau: Annotated[float, Field(gt=0.0, le=1.0), AfterValidator(_counts_for_discopop)] = 0.05
    """Temperature at which `discopop` changes from its logistic part to its exponential one."""
    length_normalized: bool = False
    """Log-ratios per token instead of their sums (TRL's `sigmoid_norm`); smaller, so beta needs to be larger."""
    sft_weight: Weight = 0.0
    """Weight of the chosen answer's negative log-likelihood per token (RPO)."""


@dataclass(frozen=True)
class Dpo:
    """-log sigmoid(beta (r(chosen) - r(rejected))) with r the log-ratio of policy and reference, and its kin.

    References:
        Rafailov et al., arXiv 2305.18290, equation 7. The others are named at their functions.
        Pang et al., RPO, arXiv 2404.19733, equation 1 (`sft_weight`).
    """

    config: Config
    reference: bool = True

    @property
    def loss_at_start(self) -> float | None:
        """What two log-ratios of 0 give; None with `sft_weight`, since likelihoods depend on the data."""
        if self.config.sft_weight:
            return None
        nothing = torch.zeros(1, dtype=torch.float64)
        return float(losses_of(nothing, nothing, self.config))

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
        metrics = pair_metrics(answers, pairs, self.config.beta * ratios, answers.logps)
        scores = ratios / answers.lengths if self.config.length_normalized else ratios
        total = losses_of(scores[pairs.better], scores[pairs.worse], self.config).sum()
        if self.config.sft_weight:
            nll = -answers.mean_logps[pairs.better].sum()
            total = total + self.config.sft_weight * nll
            metrics["nll_loss"] = nll.detach()
        return Loss(total=total, metrics=metrics)


def losses_of(chosen: torch.Tensor, rejected: torch.Tensor, config: Config) -> torch.Tensor:
    """The loss of each pair, [P].

    Args:
        chosen: Log-ratio of policy and reference for the better answer, [P].
        rejected: Likewise for the other, [P].
        config: The recipe's section.
    """
    if config.loss_type in OF_THE_DIFFERENCE:
        difference = _diverged(chosen, config) - _diverged(rejected, config)
        return _of_difference(config.beta * difference, config)
    return _of_both(chosen, rejected, config)


def _of_difference(logits: torch.Tensor, config: Config) -> torch.Tensor:
    """Losses of beta times the difference of the scores, [P].

    References:
        `sigmoid`: Rafailov et al., arXiv 2305.18290, equation 7, with Mitchell's label smoothing.
        `hinge`: Zhao et al., SLiC, arXiv 2305.10425, on normalised likelihoods as Liu et al., RSO, arXiv 2309.06657.
        `robust`: Chowdhury et al., arXiv 2403.00409.
        `exo_pair`: Ji et al., arXiv 2402.00856, equation 16.
        `discopop`: Lu et al., arXiv 2406.08414, equation 5.
    """
    smoothing = config.label_smoothing
    match config.loss_type:
        case "hinge":
            return (1.0 - logits).relu()
        case "robust":  # ((1 - e) l(x) - e l(-x)) / (1 - 2 e) with l(-x) = l(x) + x
            return -F.logsigmoid(logits) - smoothing / (1.0 - 2.0 * smoothing) * logits
        case "exo_pair":  # KL((q, 1 - q) | (1 - e, e)) with q = sigmoid(x)
            better, worse = F.logsigmoid(logits), F.logsigmoid(-logits)
            return better.exp() * (better - math.log1p(-smoothing)) + worse.exp() * (worse - math.log(smoothing))
        case "discopop":
            # The product sigmoid(x / tau) exp(-x) as one exponential: each alone is 0 or infinite far from 0, and
            # with tau <= 1 the exponent is below 0 on both sides.
            turn = logits / config.discopop_tau
            return torch.sigmoid(-turn) * -F.logsigmoid(logits) + torch.exp(F.logsigmoid(turn) - logits)
    return smoothed_logistic(logits, smoothing)


def _of_both(chosen: torch.Tensor, rejected: torch.Tensor, config: Config) -> torch.Tensor:
    """Losses of the two log-ratios that are not of their difference alone, [P].

    References:
        `nca_pair`: Chen et al., arXiv 2402.05369, with K = 2 and rewards 1 and 0.
        `apo_zero`, `apo_down`: D'Oosterlinck et al., arXiv 2408.06266, equations 7 and 8.
        `sppo_hard`: Wu et al., arXiv 2405.00675, equation 4.7, with probabilities 1 and 0.
    """
    beta = config.beta
    match config.loss_type:
        case "nca_pair":
            better, worse = beta * chosen, beta * rejected
            return -F.logsigmoid(better) - 0.5 * F.logsigmoid(-better) - 0.5 * F.logsigmoid(-worse)
        case "apo_zero":
            return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)
        case "apo_down":
            return torch.sigmoid(beta * chosen) + torch.sigmoid(-beta * (chosen - rejected))
    return (chosen - 0.5 / beta).square() + (rejected + 0.5 / beta).square()


def _diverged(ratio: torch.Tensor, config: Config) -> torch.Tensor:
    """f'(u) with u = pi / pi_ref, up to a constant, from log u: what a log-ratio is under another divergence.

        reverse_kl  log u        forward_kl  1 - 1/u       js_divergence  log(2 u / (1 + u))
        alpha_divergence  (u^(a-1) - 1) / (a - 1)

    Exponents end at 80: beyond it float32 would overflow, and the slope is 0 there.

    Reference:
        Wang et al., f-DPO, arXiv 2309.16240, table 1; alpha as in TRL, which is 1 minus the paper's.
    """
    match config.f_divergence_type:
        case "forward_kl":
            return -torch.expm1((-ratio).clamp(max=LARGEST_EXPONENT))
        case "js_divergence":
            return F.logsigmoid(ratio) + math.log(2.0)
        case "alpha_divergence" if abs(power := config.f_alpha_divergence_coef - 1.0) >= 1e-6:
            return torch.expm1((power * ratio).clamp(max=LARGEST_EXPONENT)) / power
    return ratio


def bind(config: Config) -> Dpo:
    """The objective for one run."""
    return Dpo(config)
