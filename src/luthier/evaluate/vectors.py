# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts and their similarities; judged by rank correlation with scores, or by finding positives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import DataError
from luthier.core.tasks import Texts
from luthier.evaluate.judged import Judged
from luthier.evaluate.shares import of_lists
from luthier.metrics.pearson import pearson
from luthier.metrics.spearman import spearman

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.evaluate.judged import Prediction
    from luthier.evaluate.reader import Reader
    from luthier.evaluate.samples import Sample

TOP = 10


def vectors(reader: Reader, samples: Sequence[Sample]) -> list[np.ndarray]:
    """The vectors of each row's texts, float32 [N, H]."""
    laid = reader.lay([sample.name for sample in samples], [sample.example for sample in samples])
    return [found for (found,) in reader.read(laid)]


def predict(reader: Reader, samples: Sequence[Sample]) -> list[Prediction]:
    """The texts of each row, their vectors, and the similarity of each with the first."""
    told = []
    for sample, found in zip(samples, vectors(reader, samples), strict=True):
        assert isinstance(sample.example, Texts)
        wide = found.astype(np.float64)
        lengths = np.maximum(np.linalg.norm(wide, axis=1), 1e-12)
        similar = (wide[1:] @ wide[0]) / (lengths[1:] * lengths[0])
        row = {"texts": list(sample.example.texts), "similarities": [float(one) for one in similar]}
        told.append(row | {"vectors": found.tolist()})
    return told


def judge(reader: Reader, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Judged:  # noqa: ARG001
    """Rank correlation where rows have scores; else how well anchors find their positives among all texts.

    Raises:
        DataError: Some rows have a score, and some do not.
    """
    examples = [sample.example for sample in samples if isinstance(sample.example, Texts)]
    scored = [example.score is not None for example in examples]
    if all(scored):
        ours = np.array([row["similarities"][0] for row in predictions])
        true = np.array([example.score for example in examples], np.float64)
        metrics = {"spearman": spearman(ours, true), "pearson": pearson(ours, true)}
        return Judged(metric="spearman", metrics=metrics, values=of_lists(ours, true, spearman))
    if any(scored):
        received = f"{sum(scored)} of {len(scored)} rows with a score"
        raise DataError("evaluation", received, "all of them, or none", "split the file")
    return _retrieved(examples, [np.array(row["vectors"]) for row in predictions])


def _retrieved(examples: Sequence[Texts], found: Sequence[np.ndarray]) -> Judged:
    """Mean reciprocal rank of the first positive among the positives and negatives of all rows."""
    owners = np.concatenate([np.full(len(example.texts) - 1, row) for row, example in enumerate(examples)])
    right = np.concatenate([np.array(example.grades[1:]) > 0 for example in examples])
    candidates = np.concatenate([vectors[1:] for vectors in found])
    ranks = []
    for row, vectors_ in enumerate(found):
        scores = candidates @ vectors_[0]
        own = right & (owners == row)
        ranks.append(1 + int((scores[~own] > scores[own].max()).sum()) if own.any() else np.inf)
    places = np.array(ranks, np.float64)
    within = np.where(places <= TOP, 1.0 / places, 0.0)
    metrics = {f"mrr@{TOP}": float(within.mean()), "accuracy@1": float((places == 1).mean())}
    return Judged(metric=f"mrr@{TOP}", metrics=metrics, values=within)
