# SPDX-License-Identifier: Apache-2.0
"""KTO: single answers marked as desirable or not, each weighed against how far the policy has moved.

Shapes: S scored tokens, N segments, J judged answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from luthier.core.errors import DataError, LuthierError
from luthier.core.trainable import Loss
from luthier.objectives._answers import answers_of, ratios_of
from luthier.objectives._reference import Positive, ReferenceConfig, Weight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.kernels.forest import Forest
    from luthier.objectives._answers import Answers

ROWS = "judged"


class Config(ReferenceConfig):
    """KTO's keys, spelt as in TRL's KTOConfig."""

    beta: Positive = 0.1
    """How closely the policy is held to the reference; higher is closer."""
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """`kto`, or `apo_zero_unpaired`: the same with the reference point at 0 instead of the estimated KL."""
    desirable_weight: Weight = 1.0
    """Weight of desirable answers; with few of them, so that both kinds weigh about the same in all."""
    undesirable_weight: Weight = 1.0
    """Weight of undesirable answers."""


@dataclass(frozen=True)
class Kto:
    """w_d (1 - sigmoid(beta (r - z0))) for desirable answers, w_u (1 - sigmoid(beta (z0 - r))) for the others.

    r is the log-ratio of policy and reference; z0 = max(0, mean of r over the step's mismatched answers) estimates
    the KL divergence and has no gradient.

    References:
        Ethayarajh et al., arXiv 2402.01306, equation 7. D'Oosterlinck et al., arXiv 2408.06266 (`apo_zero_unpaired`).
    """

    config: Config
    reference: bool = True

    @property
    def loss_at_start(self) -> float | None:
        """Half the weight; None where the two kinds have different ones."""
        same = self.config.desirable_weight == self.config.undesirable_weight
        return 0.5 * self.config.desirable_weight if same else None

    @property
    def mismatched(self) -> bool:
        """Whether the KL is estimated: `apo_zero_unpaired` reads no other row's answer."""
        return self.config.loss_type == "kto"

    def units(self, forest: Forest) -> int:
        """Judged answers; a pair is two."""
        return len(_judged(forest)[0])

    def gather(self, outputs: torch.Tensor, forest: Forest) -> Mapping[str, torch.Tensor]:
        """Sums over a micro-batch whose totals over the step `loss` reads from `Forest.step`.

        Args:
            outputs: Log-probability of each scored token, [S].
            forest: With grades and the reference's log-probabilities.

        Raises:
            DataError: A tree has no mismatched answer, or grades that are not 1 and 0.
        """
        answers = answers_of(outputs.detach(), forest)
        _, desirable = _judged(forest)
        sums = {
            "desirable": answers.logps.new_tensor(float(desirable.sum())),
            "undesirable": answers.logps.new_tensor(float((~desirable).sum())),
        }
        if self.mismatched:
            others = torch.from_numpy(_mismatched(forest)).to(outputs.device, non_blocking=True)
            sums["mismatched"] = answers.logps.new_tensor(float(len(others)))
            sums["mismatched_ratios"] = ratios_of(answers)[others].sum()
        return sums

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:
        """The sum over judged answers.

        Args:
            outputs: Log-probability of each scored token, [S].
            forest: With grades, the reference's log-probabilities and the step's totals of `gather`.

        Raises:
            DataError: Grades are not 1 and 0.
            LuthierError: The forest came without the step's totals.
        """
        config = self.config
        answers = answers_of(outputs, forest)
        places, labels = _judged(forest)
        judged = torch.from_numpy(places).to(outputs.device, non_blocking=True)
        desirable = torch.from_numpy(labels).to(outputs.device, non_blocking=True)
        ratios = ratios_of(answers)[judged]
        zero = self._reference_point(forest, ratios)
        gain = torch.where(desirable, ratios - zero, zero - ratios)
        weight = torch.where(
            desirable, ratios.new_tensor(config.desirable_weight), ratios.new_tensor(config.undesirable_weight)
        )
        total = (weight * torch.sigmoid(-config.beta * gain)).sum()  # 1 - sigmoid(x), without cancellation
        metrics = _metrics(answers, judged, desirable, config.beta * ratios.detach(), forest)
        metrics["rewards/accuracies"] = (gain.detach() > 0).to(ratios.dtype).sum()
        metrics["z0"] = zero * len(places)
        return Loss(total=total, metrics=metrics)

    def _reference_point(self, forest: Forest, like: torch.Tensor) -> torch.Tensor:
        if not forest.step:
            raise LuthierError(
                "objective kto",
                "the forest does not carry the step's sums",
                "KTO weighs each answer against an estimate over the whole step",
                "put the totals of gather into Forest.step before loss is called",
            )
        if not self.mismatched:
            return like.new_zeros(())
        sums = {name: forest.step[name].to(like) for name in ("mismatched", "mismatched_ratios")}
        return (sums["mismatched_ratios"] / sums["mismatched"].clamp(min=1.0)).clamp(min=0.0)


def _judged(forest: Forest) -> tuple[np.ndarray, np.ndarray]:
    """Segments of the judged answers, int64 [J], and which of them are desirable, bool [J]."""
    grades = np.array(forest.grades, np.float64)
    places = np.flatnonzero(~np.isnan(grades))
    for place in places[~np.isin(grades[places], (0.0, 1.0))]:
        raise DataError(
            forest.rows[forest.trees[place]],
            f"an answer has the grade {grades[place]:g}",
            "KTO learns from answers that are desirable (1) or not (0)",
            "take dpo for ranked answers, or label each of them",
        )
    return places, grades[places] == 1.0


def _mismatched(forest: Forest) -> np.ndarray:
    """Segments of the mismatched answers, int64: children without a grade, at least one in each judged tree."""
    alone = np.isnan(np.array(forest.grades, np.float64)) & (np.array(forest.parents) >= 0)
    found = np.flatnonzero(alone)
    having = {forest.trees[place] for place in found.tolist()}
    for tree, grade in zip(forest.trees, forest.grades, strict=True):
        if tree not in having and not math.isnan(grade):
            raise DataError(
                forest.rows[tree],
                "no other row's answer stands beside it",
                "KTO estimates the KL divergence from answers to other prompts",
                "give the run two rows or more, or set objective.loss_type to apo_zero_unpaired",
            )
    return found


def _metrics(
    answers: Answers, judged: torch.Tensor, desirable: torch.Tensor, rewards: torch.Tensor, forest: Forest
) -> dict[str, torch.Tensor]:
    """Sums over judged answers; those of one kind are scaled such that all units of the step give that kind's mean."""
    kinds = {"chosen": (desirable, "desirable"), "rejected": (~desirable, "undesirable")}
    counts = {name: forest.step[key].to(rewards) for name, (_, key) in kinds.items()}
    units = counts["chosen"] + counts["rejected"]
    metrics: dict[str, torch.Tensor] = {}
    for name, (mine, _) in kinds.items():
        scale = mine.to(rewards.dtype) * units / counts[name].clamp(min=1.0)
        metrics[f"rewards/{name}"] = (scale * rewards).sum()
        metrics[f"logps/{name}"] = (scale * answers.logps.detach()[judged]).sum()
        metrics[f"length/{name}"] = (scale * answers.lengths[judged]).sum()
    metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    if answers.kl is not None:
        metrics["kl"] = answers.kl[judged].sum()
    return metrics


def bind(config: Config) -> Kto:
    """The objective for one run."""
    return Kto(config)
