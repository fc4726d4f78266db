# SPDX-License-Identifier: Apache-2.0
"""Labels of texts: probabilities of classes, or values; judged by accuracy, or by rank correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.tasks import Labelled
from luthier.data.faults import RowFault
from luthier.data.labelling import SHOWN, Numbers, told
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
    rows = []
    for sample, (logits,) in zip(samples, found, strict=True):
        assert isinstance(sample.example, Labelled)
        row: dict[str, Any] = {"text": sample.example.text}
        row |= {"pair": sample.example.pair} if sample.example.pair is not None else {}
        wide = logits.astype(np.float64)
        if problem == "regression":
            values = [float(value) for value in wide]
            rows.append(row | {"value": values[0] if len(values) == 1 else dict(zip(names, values, strict=True))})
            continue
        if problem == "multi_label_classification":
            shares = 1.0 / (1.0 + np.exp(-wide))
            chosen = [name for name, share in zip(names, shares, strict=True) if share > 0.5]
            row |= {"labels": chosen}
        else:
            shares = np.exp(wide - wide.max())
            shares = shares / shares.sum()
            row |= {"label": names[int(shares.argmax())]}
        rows.append(row | {"probabilities": dict(zip(names, map(float, shares), strict=True))})
    return rows


def judge(reader: Reader, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Judged:
    """Compare with the rows' own labels; one that the model does not know is never predicted, and wrong.

    Raises:
        DataError: A row's labels are of another kind than the model's, or no row has a label that it knows.
    """
    assert reader.purpose.labels is not None
    problem, names = reader.purpose.labels.problem, reader.names
    numbers = Numbers(reader.purpose.labels)
    if problem == "regression":
        true = np.array([_values(numbers, sample) for sample in samples])
        single = len(names) == 1
        ours = np.array([[row["value"]] if single else list(row["value"].values()) for row in predictions])
        columns = range(true.shape[1])
        metrics = {
            "spearman": float(np.mean([spearman(ours[:, c], true[:, c]) for c in columns])),
            "pearson": float(np.mean([pearson(ours[:, c], true[:, c]) for c in columns])),
            "mse": float(np.square(ours - true).mean()),
        }
        shares = np.mean([of_lists(ours[:, c], true[:, c], spearman) for c in columns], axis=0)
        return Judged(metric="spearman", metrics=metrics, values=shares)
    given = [_names(numbers, sample) for sample in samples]
    need_known(names, [name for some in given for name in some])
    if problem == "multi_label_classification":
        sets = [(set(row["labels"]), set(labels)) for row, labels in zip(predictions, given, strict=True)]
        ours, true = (np.array([[name in pair[side] for name in names] for pair in sets]) for side in (0, 1))
        right = np.array([float(said == there) for said, there in sets])
        metrics = {"accuracy": float(right.mean()), "f1_micro": f1(ours, true, "micro"), "f1_macro": f1(ours, true)}
        return Judged(metric="accuracy", metrics=metrics, values=right)
    known = {name: place for place, name in enumerate(dict.fromkeys([*names, *(labels[0] for labels in given)]))}
    ours = np.array([known[row["label"]] for row in predictions])
    true = np.array([known[labels[0]] for labels in given])
    metrics = {"accuracy": accuracy(ours, true), "f1_macro": f1(ours, true), "matthews": matthews(ours, true)}
    return Judged(metric="accuracy", metrics=metrics, values=(ours == true).astype(np.float64))


def need_known(names: Sequence[str], given: Sequence[str]) -> None:
    """Refuse rows none of whose labels the model knows: a score of 0 would say something of the model.

    Args:
        names: That the model knows.
        given: Those of all rows.

    Raises:
        DataError: No label is known.
    """
    if given and not set(given) & set(names):
        received = f"labels {', '.join(list(dict.fromkeys(given))[:SHOWN])}, of which the model knows none"
        allowed = f"its own: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        fix = "call them so; by number they can be given to a model that was trained with data.labels"
        raise DataError("evaluation", received, allowed, fix)


def _names(numbers: Numbers, sample: Sample) -> tuple[str, ...]:
    """The names of a row's labels; those that the model does not know as they stand."""
    assert isinstance(sample.example, Labelled)
    given = sample.example.labels
    several = numbers.labels.problem == "multi_label_classification"
    if several and given and isinstance(given[0], float):  # 0.0 or 1.0 for each class
        return tuple(
            name for name, is_true in zip(numbers.labels.names, _values(numbers, sample), strict=True) if is_true
        )
    if not several and len(given) != 1:
        fix = "leave it out, or train with objective.problem_type=multi_label_classification"
        raise DataError(sample.name, f"{len(given)} labels", "one label, which is what the model gives", fix)
    return tuple(map(numbers.name, given))


def _values(numbers: Numbers, sample: Sample) -> tuple[float, ...]:
    """A row's values, or 0 or 1 for each class."""
    assert isinstance(sample.example, Labelled)
    found = numbers.targets(sample.example)
    if isinstance(found, RowFault):
        allowed = f"what the model was trained on: {told(numbers.labels)}"
        raise DataError(sample.name, str(found), allowed, "mend the row, or leave it out")
    return found
