# SPDX-License-Identifier: Apache-2.0
"""Classification: one class, several labels or values for each text, through a head on its last hidden state.

Shapes: N segments, B texts with labels, C classes or values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional as F

from luthier.core.errors import RecipeError
from luthier.core.tasks import Problem
from luthier.core.trainable import Loss
from luthier.metrics.accuracy import accuracy
from luthier.metrics.f1 import f1
from luthier.metrics.matthews import matthews
from luthier.metrics.pearson import pearson
from luthier.metrics.spearman import spearman
from luthier.objectives._answers import widened
from luthier.objectives._labels import WHERE, LabelConfig, cross_entropy, weights_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.tasks import Labels
    from luthier.kernels.forest import Forest

ROWS = "labelled"
TASKS = ("SEQ_CLS",)
DEFAULT_FOR = "SEQ_CLS"
LABELLED = True


class Config(LabelConfig):
    """The keys of classification."""

    problem_type: Literal["auto"] | Problem = "auto"
    """`auto`: one name a row is a class, a list of names is several labels, a number with a point is a value."""


@dataclass(frozen=True)
class Classification:
    """Cross entropy of one class, mean binary cross entropy of several labels, or mean squared error of values.

    The losses of transformers' `...ForSequenceClassification`, each text of the optimiser step weighing the same.

    References:
        Devlin et al., arXiv 1810.04805, section 4.1. Szegedy et al., arXiv 1512.00567, section 7 (label smoothing).
    """

    config: Config
    labels: Labels | None = None
    weights: torch.Tensor | None = None
    reference: bool = False
    loss_at_start: float | None = None

    @property
    def problem(self) -> Problem:
        """What the labels of a text are."""
        if self.labels is not None:
            return self.labels.problem
        asked = self.config.problem_type
        return "single_label_classification" if asked == "auto" else asked

    def units(self, forest: Forest) -> int:
        """Texts with labels."""
        return sum(map(bool, forest.targets))

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:
        """The sum over texts.

        Args:
            outputs: What the head says of each segment, [N, C], or [N] of a single value.
            forest: With targets.
        """
        logits, target = self._judged(outputs, forest)
        if self.problem == "regression":
            return Loss(total=(logits - target).square().mean(1).sum(), metrics={})
        if self.problem == "multi_label_classification":
            weights = None if self.weights is None else self.weights.to(logits)
            each = F.binary_cross_entropy_with_logits(logits, target, weight=weights, reduction="none")
            return Loss(total=each.mean(1).sum(), metrics={})
        target = target[:, 0].long()
        total = cross_entropy(logits, target, self.weights, self.config.label_smoothing_factor)
        right = (logits.detach().argmax(1) == target).to(logits.dtype).sum()
        return Loss(total=total, metrics={"accuracy": right})

    def records(self, outputs: torch.Tensor, forest: Forest) -> Mapping[str, torch.Tensor]:
        """Logits or values and what was right, of each text with labels."""
        logits, target = self._judged(outputs.detach(), forest)
        return {"predicted": logits.cpu(), "target": target.cpu()}

    def metrics(self, records: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        """Accuracy, F1 and Matthews correlation of classes; accuracy and F1 of labels; correlations of values."""
        predicted, target = records["predicted"].double().numpy(), records["target"].double().numpy()
        if self.problem == "regression":
            columns = range(target.shape[1])
            return {
                "mse": float(np.square(predicted - target).mean()),
                "pearson": float(np.mean([pearson(predicted[:, c], target[:, c]) for c in columns])),
                "spearman": float(np.mean([spearman(predicted[:, c], target[:, c]) for c in columns])),
            }
        if self.problem == "multi_label_classification":
            said = predicted > 0.0
            true = target > 0.5
            return {"accuracy": accuracy(said, true), "f1_micro": f1(said, true, "micro"), "f1_macro": f1(said, true)}
        one, right = predicted.argmax(1), target[:, 0].astype(np.int64)
        return {"accuracy": accuracy(one, right), "f1_macro": f1(one, right), "matthews": matthews(one, right)}

    def _judged(self, outputs: torch.Tensor, forest: Forest) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the texts with labels, [B, C], and their targets, [B, 1] or [B, C]."""
        values = widened(outputs)
        values = values[:, None] if values.ndim == 1 else values
        last = {tree: segment for segment, tree in enumerate(forest.trees)}
        known = [tree for tree, target in enumerate(forest.targets) if target]
        places = torch.tensor([last[tree] for tree in known], dtype=torch.int64, device=values.device)
        targets = np.array([forest.targets[tree] for tree in known], np.float64)
        wide = 1 if self.problem == "single_label_classification" else values.shape[1]
        return values[places], torch.from_numpy(targets.reshape(len(known), wide)).to(values)


def bind(config: Config, labels: Labels | None = None) -> Classification:
    """The objective for one run.

    Raises:
        RecipeError: A key means nothing to what the rows are labelled with.
    """
    bound = Classification(config, labels)
    if bound.problem != "single_label_classification":
        kind = {"regression": "values", "multi_label_classification": "several labels"}[bound.problem]
        if config.label_smoothing_factor:
            where, fix = "objective.label_smoothing_factor", "remove it"
            raise RecipeError(where, f"for rows of {kind}", "rows of one class each", fix)
        if config.class_weights != "none" and (bound.problem == "regression" or config.class_weights == "balanced"):
            allowed = "rows of one class each" + ("" if bound.problem == "regression" else ", or {name: weight}")
            raise RecipeError(WHERE, f"{config.class_weights} for rows of {kind}", allowed, "remove it")
    elif labels is not None and len(labels) < 2:
        received = f"one class only ({', '.join(labels.names) or 'none'})"
        raise RecipeError("objective classification", received, "two classes or more", "give rows of other classes too")
    return replace(bound, weights=weights_of(config, labels))
