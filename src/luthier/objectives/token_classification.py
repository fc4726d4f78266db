# SPDX-License-Identifier: Apache-2.0
"""Token classification: a tag for each word, learnt on the word's first token.

Shapes: T tokens, K labelled tokens, C tags.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from luthier.core.errors import RecipeError
from luthier.core.trainable import Loss
from luthier.metrics.accuracy import accuracy
from luthier.metrics.entity_f1 import entity_counts, entity_f1, marks_spans
from luthier.metrics.f1 import f1
from luthier.objectives._answers import widened
from luthier.objectives._labels import LabelConfig, cross_entropy, weights_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.tasks import Labels
    from luthier.kernels.forest import Forest

ROWS = "tagged"
TASKS = ("TOKEN_CLS",)
DEFAULT_FOR = "TOKEN_CLS"
LABELLED = True


class Config(LabelConfig):
    """The keys of token classification."""


@dataclass(frozen=True)
class TokenClassification:
    """Cross entropy of the labelled tokens, each of the optimiser step weighing the same.

    The loss of transformers' `...ForTokenClassification`. Where tags mark spans (`B-PER`), evaluations give precision,
    recall and F1 of whole entities; else accuracy and F1 of tags.

    References:
        Devlin et al., arXiv 1810.04805, section 5.3. Szegedy et al., arXiv 1512.00567, section 7 (label smoothing).
    """

    config: Config
    labels: Labels | None = None
    weights: torch.Tensor | None = None
    reference: bool = False
    loss_at_start: float | None = None

    def units(self, forest: Forest) -> int:
        """Labelled tokens."""
        return 0 if forest.labels is None else int((forest.labels >= 0).sum())

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:
        """The sum over labelled tokens.

        Args:
            outputs: Logits of each token, [T, C].
            forest: With labels.
        """
        logits, target, _ = _labelled(widened(outputs), forest)
        total = cross_entropy(logits, target, self.weights, self.config.label_smoothing_factor)
        right = (logits.detach().argmax(1) == target).to(logits.dtype).sum()
        return Loss(total=total, metrics={"accuracy": right})

    def records(self, outputs: torch.Tensor, forest: Forest) -> Mapping[str, torch.Tensor]:
        """The predicted tag of each labelled token, the right one, and a number of the row that it stands in."""
        logits, target, places = _labelled(outputs.detach(), forest)
        rows = np.array([_number(forest, segment) for segment in range(len(forest.parents))], np.int64)
        owners = np.searchsorted(np.array(forest.starts), places.cpu().numpy(), side="right") - 1
        return {
            "predicted": logits.argmax(1).cpu(),
            "target": target.cpu(),
            "row": torch.from_numpy(rows[owners]),
        }

    def metrics(self, records: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        """Accuracy of tags, and precision, recall and F1 of entities; of tags that mark none, macro F1."""
        predicted, target, row = (records[name].numpy() for name in ("predicted", "target", "row"))
        found = {"accuracy": accuracy(predicted, target)}
        names = self.labels.names if self.labels is not None else ()
        if not marks_spans(names):
            return found | {"f1_macro": f1(predicted, target)}
        bounds = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
        counts = [
            entity_counts([names[k] for k in predicted[a:b]], [names[k] for k in target[a:b]])
            for a, b in pairwise(bounds)
        ]
        return found | entity_f1(counts)


def _labelled(values: torch.Tensor, forest: Forest) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of the labelled tokens, [K, C], their labels and their places, [K]."""
    if forest.labels is None:
        nothing = torch.zeros(0, dtype=torch.int64, device=values.device)
        return values[nothing], nothing, nothing
    labels = forest.labels.to(values.device)
    places = torch.nonzero(labels >= 0)[:, 0]
    return values[places], labels[places], places


def _number(forest: Forest, segment: int) -> int:
    """The same for windows of one row, so that an entity is read over their border."""
    tree = forest.trees[segment]
    return zlib.crc32(forest.rows[tree].encode()) if tree >= 0 and forest.rows[tree] else -1 - segment


def bind(config: Config, labels: Labels | None = None) -> TokenClassification:
    """The objective for one run.

    Raises:
        RecipeError: The rows have one tag only, or a class weight names none of them.
    """
    if labels is not None and len(labels) < 2:
        received = f"one tag only ({', '.join(labels.names) or 'none'})"
        raise RecipeError("objective token_classification", received, "two tags or more", "give rows of other tags too")
    return TokenClassification(config, labels, weights_of(config, labels))
