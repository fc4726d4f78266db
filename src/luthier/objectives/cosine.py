# SPDX-License-Identifier: Apache-2.0
"""Cosine similarity of two texts, made what their score says: by regression, or by order alone (CoSENT).

Shapes: N segments, H hidden, P scored pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from pydantic import model_validator

from luthier.core.errors import DataError
from luthier.core.trainable import Loss
from luthier.kernels.pooling import pooled
from luthier.metrics.pearson import pearson
from luthier.metrics.spearman import spearman
from luthier.objectives._reference import Positive
from luthier.objectives._texts import TextConfig, children, need_step, own_part, tensor_of, with_own_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.kernels.forest import Forest

ROWS = "texts"
TASKS = ("FEATURE_EXTRACTION",)


class Config(TextConfig):
    """The keys of training on scored pairs."""

    loss_type: Literal["cosine", "cosent"] = "cosine"
    """`cosine`: squared error of the cosine; `cosent`: pairs with a higher score shall have a higher cosine."""
    score_range: tuple[float, float] = (0.0, 1.0)
    """The scores that mean `nothing in common` and `the same`: `[0, 5]` for STS-B. They become cosines of 0 and 1."""
    scale: Positive = 20.0
    """Factor on differences of cosines, of `cosent` alone."""

    @model_validator(mode="after")
    def _rises(self) -> Config:
        if self.score_range[0] >= self.score_range[1]:
            raise ValueError("score_range goes from the lowest to the highest score, as in [0, 5]")
        if self.loss_type != "cosent" and self.scale != type(self).model_fields["scale"].default:
            raise ValueError("scale belongs to loss_type cosent; remove it")
        return self


class Found(NamedTuple):
    """Scored pairs: segments of both texts, and the scores."""

    first: list[int]
    second: list[int]
    scores: list[float]


@dataclass(frozen=True)
class Cosine:
    """(cos(u, v) - s)^2, the mean over pairs, with the score s within its range from 0 to 1.

    Reference:
        Reimers and Gurevych, arXiv 1908.10084, section 3 (regression objective).
    """

    config: Config
    reference: bool = False
    loss_at_start: float | None = None

    def units(self, forest: Forest) -> int:
        """Scored pairs."""
        return len(self._found(forest).scores)

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:
        """The sum over pairs.

        Args:
            outputs: Last hidden states, [T, H].
            forest: With scores.

        Raises:
            DataError: A score lies outside its range.
        """
        found = self._found(forest)
        own = self._cosines(outputs, forest, found)
        low, high = self.config.score_range
        wanted = [(score - low) / (high - low) for score in found.scores]
        target = torch.tensor(wanted, dtype=own.dtype, device=own.device)
        return Loss(total=(own - target).square().sum(), metrics={"cosine": own.detach().sum()})

    def records(self, outputs: torch.Tensor, forest: Forest) -> Mapping[str, torch.Tensor]:
        """Cosine and score of each pair."""
        found = self._found(forest)
        cosines = self._cosines(outputs.detach(), forest, found)
        return {"cosine": cosines.cpu(), "score": torch.tensor(found.scores, dtype=torch.float64)}

    def metrics(self, records: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        """Correlations of cosines and scores."""
        cosines, scores = records["cosine"].numpy(), records["score"].numpy()
        return {"spearman": spearman(cosines, scores), "pearson": pearson(cosines, scores)}

    def _cosines(self, outputs: torch.Tensor, forest: Forest, found: Found) -> torch.Tensor:
        vectors = pooled(outputs, forest, self.config.pooling, normalize=True)
        return (vectors[found.first] * vectors[found.second]).sum(dim=1)

    def _found(self, forest: Forest) -> Found:
        found = Found([], [], [])
        low, high = self.config.score_range
        for tree, texts in children(forest).items():
            score = forest.scores[texts[0]] if forest.scores else math.nan
            graded = any(not math.isnan(forest.grades[segment]) for segment in texts)
            if len(texts) != 2 or graded or math.isnan(score):
                continue
            if not low <= score <= high:
                received, allowed = f"a score of {score:g}", f"objective.score_range, {low:g} to {high:g}"
                raise DataError(forest.rows[tree], received, allowed, "set score_range to what your scores can be")
            found.first.append(texts[0])
            found.second.append(texts[1])
            found.scores.append(score)
        return found


@dataclass(frozen=True)
class Cosent(Cosine):
    """log(1 + sum of exp(scale (cos_j - cos_i)) over pairs with s_i > s_j): one number for a whole optimiser step.

    Pairs are compared over all micro-batches and ranks; as with `contrastive`, dropout draws anew for the texts of
    other micro-batches.

    References:
        Huang et al., CoSENT: consistent sentence embedding via similarity ranking, 2024, equation 5. Gao et al.,
        arXiv 2101.06983 (the gradient of large batches in parts).
    """

    mismatched: bool = False

    def gather(self, outputs: torch.Tensor, forest: Forest) -> Mapping[str, torch.Tensor]:
        """Cosines and scores of a micro-batch, which are joined over the step.

        Args:
            outputs: Last hidden states, [T, H].
            forest: Of scored pairs.
        """
        found = self._found(forest)
        cosines = self._cosines(outputs.detach(), forest, found)
        scores = torch.tensor(found.scores, dtype=cosines.dtype, device=cosines.device)
        return {"cosines": cosines, "scores": scores, "pairs": tensor_of([len(found.scores)], cosines)}

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:
        """The step's loss, once for each of the micro-batch's pairs, with the gradient of the whole.

        Args:
            outputs: Last hidden states, [T, H].
            forest: With scores and the step's cosines.

        Raises:
            DataError: A score lies outside its range.
            LuthierError: The forest came without the step's cosines.
        """
        found = self._found(forest)
        own = self._cosines(outputs, forest, found)
        need_step(forest, "cosine")
        cosines = own_part(own, forest.step["cosines"], forest.step["pairs"], forest.place)
        scores = forest.step["scores"]
        higher = scores[:, None] > scores[None, :]  # i above j
        differences = self.config.scale * (cosines[None, :] - cosines[:, None])
        exponents = torch.cat([differences[higher], differences.new_zeros(1)])  # exp(0) is the 1 in the logarithm
        whole = torch.logsumexp(exponents, 0)
        # A unit is a pair and the loss is the step's: each pair counts it once, and the mean over units is the loss.
        total = with_own_value(len(cosines) * whole, len(found.scores) * whole)
        return Loss(total=total, metrics={"cosine": own.detach().sum()})


def bind(config: Config) -> Cosine:
    """The objective for one run."""
    return Cosent(config) if config.loss_type == "cosent" else Cosine(config)
