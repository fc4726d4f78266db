# SPDX-License-Identifier: Apache-2.0
"""Labels of texts: probabilities of classes, or values; judged by accuracy, or by rank correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.tasks import Labelled
from luthier.evaluate.judged import Judged
from luthier.evaluate.shares import of_lists
from luthier.metrics.accuracy import accuracy
from luthier.metrics.f1 import f1
from luthier.metrics.matthews import matthews
from luthier.metrics.pearson import pearson
from luthier.metrics.spearman import spearman

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.evaluate.judged import Prediction
    from luthier.evaluate.reader import Reader
    from luthier.evaluate.samples import Sample


def predict(reader: Reader, samples: Sequence[Sample]) -> list[Prediction]:
    """A label with the probability of each, all labels above one half, or values."""
    found = reader.read(reader.lay([sample.name for sample in samples], [sample.example for sample in samples]))
    assert reader.purpose.labels is not None
    names, problem = reader.names, reader.purpose.labels.problem
    told = []
    for sample, (logits,) in zip(samples, found, strict=True):
        assert isinstance(sample.example, Labelled)
        row: dict[str, Any] = {"text": sample.example.text}
        row |= {"pair": sample.example.pair} if sample.example.pair is not None else {}
        wide = logits.astype(np.float64)
        if problem == "regression":
            values = [float(value) for value in wide]
            told.append(row | {"value": values[0] if len(values) == 1 else dict(zip(names, values, strict=True))})
            continue
        if problem == "multi_label_classification":
            shares = 1.0 / (1.0 + np.exp(-wide))
            chosen = [name for name, share in zip(names, shares, strict=True) if share > 0.5]
            row |= {"labels": chosen}
        else:
            shares = np.exp(wide - wide.max())
            shares = shares / shares.sum()
            row |= {"label": names[int(shares.argmax())]}
        told.append(row | {"probabilities": dict(zip(names, map(float, shares), strict=True))})
    return told


def judge(reader: Reader, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Judged:
    """Compare with the rows' own labels; one that the model does not know is never predicted, and wrong."""
    assert reader.purpose.labels is not None
    problem, names = reader.purpose.labels.problem, reader.names
    given = [sample.example.labels for sample in samples if isinstance(sample.example, Labelled)]
    if problem == "regression":
        single = len(names) == 1
        ours = np.array([[row["value"]] if single else list(row["value"].values()) for row in predictions])
        true = np.array([[float(value) for value in labels] for labels in given])
        columns = range(true.shape[1])
        metrics = {
            "spearman": float(np.mean([spearman(ours[:, c], true[:, c]) for c in columns])),
            "pearson": float(np.mean([pearson(ours[:, c], true[:, c]) for c in columns])),
            "mse": float(np.square(ours - true).mean()),
        }
        shares = np.mean([of_lists(ours[:, c], true[:, c], spearman) for c in columns], axis=0)
        return Judged(metric="spearman", metrics=metrics, values=shares)
    if problem == "multi_label_classification":
        sets = [(set(row["labels"]), set(map(str, labels))) for row, labels in zip(predictions, given, strict=True)]
        ours, true = (np.array([[name in pair[side] for name in names] for pair in sets]) for side in (0, 1))
        right = np.array([float(said == there) for said, there in sets])
        metrics = {"accuracy": float(right.mean()), "f1_micro": f1(ours, true, "micro"), "f1_macro": f1(ours, true)}
        return Judged(metric="accuracy", metrics=metrics, values=right)
    known = {name: place for place, name in enumerate(dict.fromkeys([*names, *(_name(labels[0]) for labels in given)]))}
    ours = np.array([known[row["label"]] for row in predictions])
    true = np.array([known[_name(labels[0])] for labels in given])
    metrics = {"accuracy": accuracy(ours, true), "f1_macro": f1(ours, true), "matthews": matthews(ours, true)}
    return Judged(metric="accuracy", metrics=metrics, values=(ours == true).astype(np.float64))


def _name(label: str | float) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
