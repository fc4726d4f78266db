# SPDX-License-Identifier: Apache-2.0
"""Contrastive embeddings: each text nearer to its positive than to all others of the step (InfoNCE).

Shapes: N segments, H hidden, P pairs of an anchor and its positive, M negatives, of a whole step.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from luthier.core.trainable import Loss
from luthier.kernels.pooling import pooled
from luthier.objectives._reference import Positive
from luthier.objectives._texts import TextConfig, children, need_step, own_part, tensor_of, with_own_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.kernels.forest import Forest

ROWS = "texts"
TASKS = ("FEATURE_EXTRACTION",)
DEFAULT_FOR = "FEATURE_EXTRACTION"

TOP = 10  # of the mean reciprocal rank: mrr@10
CHUNK = 256  # anchors at a time in an evaluation: 20 MB beside 10,000 candidates


class Config(TextConfig):
    """The keys of contrastive training."""

    scale: Positive = 20.0
    """Factor on similarities, as in sentence-transformers: 1 / temperature."""
    normalize: bool = True
    """Vectors have length 1, so that similarities are cosines; false: plain dot products."""
    symmetric: bool = False
    """Positives shall find their anchors too; the loss is the mean of both directions."""


class Found(NamedTuple):
    """The texts of a micro-batch.

    Attributes:
        anchors: Segment of each pair's anchor.
        positives: Segment of each pair's positive.
        owners: Tree of each pair.
        negatives: Segments of negatives.
    """

    anchors: list[int]
    positives: list[int]
    owners: list[int]
    negatives: list[int]


@dataclass(frozen=True)
class Contrastive:
    """-log softmax of the pair's similarity among those of the anchor to all positives and negatives of the step.

    In-batch negatives are those of the whole optimiser step, in however many micro-batches or ranks it is computed:
    one more forward pass finds the other micro-batches' vectors. With dropout that pass draws masks of its own, so
    texts of other micro-batches are compared as they come out of another draw. An anchor's other positives are no
    negatives of it.

    References:
        van den Oord et al., arXiv 1807.03748, equation 4 (InfoNCE). Henderson et al., arXiv 1705.00652, section 4.4
        (in-batch negatives). Gao et al., arXiv 2101.06983 (the gradient of large batches in parts).
    """

    config: Config
    reference: bool = False
    loss_at_start: float | None = None
    mismatched: bool = False

    def units(self, forest: Forest) -> int:
        """Pairs of an anchor and a positive."""
        return len(_found(forest).anchors)

    def gather(self, outputs: torch.Tensor, forest: Forest) -> Mapping[str, torch.Tensor]:
        """Vectors of a micro-batch, which are joined over the step, and how many there are.

        Args:
            outputs: Last hidden states, [T, H].
            forest: Of texts.
        """
        found, vectors = _found(forest), self._vectors(outputs.detach(), forest)
        trees = sorted(set(found.owners))
        return {
            "anchors": vectors[found.anchors],
            "positives": vectors[found.positives],
            "negatives": vectors[found.negatives],
            "owners": tensor_of([trees.index(tree) for tree in found.owners], vectors),
            "pairs": tensor_of([len(found.anchors)], vectors),
            "trees": tensor_of([len(trees)], vectors),
            "others": tensor_of([len(found.negatives)], vectors),
        }

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:
        """The sum over the micro-batch's pairs, with the gradient of the whole step.

        Args:
            outputs: Last hidden states, [T, H].
            forest: With the step's vectors.

        Raises:
            LuthierError: The forest came without them.
        """
        need_step(forest, "contrastive")
        step, found, vectors = forest.step, _found(forest), self._vectors(outputs, forest)
        pairs = step["pairs"]
        anchors = own_part(vectors[found.anchors], step["anchors"], pairs, forest.place)
        positives = own_part(vectors[found.positives], step["positives"], pairs, forest.place)
        negatives = own_part(vectors[found.negatives], step["negatives"], step["others"], forest.place)
        # Trees are numbered within their micro-batch: make them numbers of the step.
        owners = step["owners"] + torch.repeat_interleave(step["trees"].cumsum(0) - step["trees"], pairs)
        logits = self.config.scale * anchors @ torch.cat([positives, negatives]).T
        same = owners[:, None] == owners[None, :]
        same.fill_diagonal_(False)
        count = len(anchors)
        masked = torch.cat([same, same.new_zeros(count, len(negatives))], dim=1)
        logits = logits.masked_fill(masked, -torch.inf)
        target = torch.arange(count, device=logits.device)
        losses = F.cross_entropy(logits, target, reduction="none")
        if self.config.symmetric:
            back = F.cross_entropy(logits[:, :count].T, target, reduction="none")
            losses = (losses + back) / 2
        begin = int(pairs[: forest.place].sum())
        own = slice(begin, begin + len(found.anchors))
        best = logits.detach()[own].argmax(1) if count else target
        right = (best == target[own]).to(logits.dtype).sum()
        return Loss(total=with_own_value(losses.sum(), losses[own].sum()), metrics={"accuracy": right})

    def records(self, outputs: torch.Tensor, forest: Forest) -> Mapping[str, torch.Tensor]:
        """Vectors of all texts of a batch, and a number of the row that each pair stands in."""
        found, vectors = _found(forest), self._vectors(outputs.detach(), forest).cpu()
        rows = [zlib.crc32(forest.rows[tree].encode()) for tree in found.owners]
        return {
            "anchors": vectors[found.anchors],
            "positives": vectors[found.positives],
            "negatives": vectors[found.negatives],
            "row": torch.tensor(rows, dtype=torch.int64),
        }

    def metrics(self, records: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        """How well anchors find their positives among all texts of the evaluation: accuracy@1 and mrr@10."""
        anchors, positives, row = (records[name].numpy() for name in ("anchors", "positives", "row"))
        candidates = np.concatenate([positives, records["negatives"].numpy()])
        ranks = np.zeros(len(anchors))
        for begin in range(0, len(anchors), CHUNK):
            some = slice(begin, begin + CHUNK)
            scores = anchors[some] @ candidates.T
            scores[:, : len(row)][row[some, None] == row[None, :]] = -np.inf  # an anchor's positives are no negatives
            own = np.einsum("ph,ph->p", anchors[some], positives[some])
            ranks[some] = 1 + (scores > own[:, None]).sum(axis=1)
        within = np.where(ranks <= TOP, 1.0 / np.maximum(ranks, 1.0), 0.0)
        nothing = not len(ranks)
        return {
            "accuracy@1": float("nan") if nothing else float((ranks == 1).mean()),
            f"mrr@{TOP}": float("nan") if nothing else float(within.mean()),
        }

    def _vectors(self, outputs: torch.Tensor, forest: Forest) -> torch.Tensor:
        return pooled(outputs, forest, self.config.pooling, normalize=self.config.normalize)


def _found(forest: Forest) -> Found:
    found = Found([], [], [], [])
    for tree, texts in children(forest).items():
        grades = [forest.grades[segment] for segment in texts]
        anchor = next((segment for segment, grade in zip(texts, grades, strict=True) if np.isnan(grade)), None)
        positives = [segment for segment, grade in zip(texts, grades, strict=True) if grade > 0]
        if anchor is None or not positives:
            continue
        found.anchors.extend([anchor] * len(positives))
        found.positives.extend(positives)
        found.owners.extend([tree] * len(positives))
        found.negatives.extend(segment for segment, grade in zip(texts, grades, strict=True) if grade <= 0)
    return found


def bind(config: Config) -> Contrastive:
    """The objective for one run."""
    return Contrastive(config)
