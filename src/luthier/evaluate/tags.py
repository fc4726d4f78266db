# SPDX-License-Identifier: Apache-2.0
"""Tags of words, and the entities that they mark; judged by F1 of whole entities, or by accuracy of tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.tasks import Tagged
from luthier.data.labelling import Numbers
from luthier.evaluate.judged import Judged
from luthier.evaluate.labels import need_known
from luthier.evaluate.shares import of_counts
from luthier.metrics.entity_f1 import entity_counts, entity_f1, marks_spans, spans
from luthier.metrics.f1 import f1, harmonic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.evaluate.judged import Prediction
    from luthier.evaluate.reader import Reader
    from luthier.evaluate.samples import Sample

OUTSIDE = "O"


def predict(reader: Reader, samples: Sequence[Sample]) -> list[Prediction]:
    """A tag for each word, from its first token in the window that shows most around it, and the entities."""
    laid = reader.lay([sample.name for sample in samples], [sample.example for sample in samples])
    names, told = reader.names, []
    nothing = OUTSIDE if OUTSIDE in names else names[0]  # of a word that has no token
    for sample, one, found in zip(samples, laid, reader.read(laid), strict=True):
        assert isinstance(sample.example, Tagged)
        words = sample.example.words
        tags = [nothing] * len(words)
        for window, logits in zip(one.windows, found, strict=True):
            for place in np.flatnonzero(window.words >= 0):
                tags[window.words[place]] = names[int(logits[place].argmax())]
        row: dict[str, Any] = {"words": list(words), "tags": tags}
        if marks_spans(names):
            each = [(span, " ".join(words[span.first : span.last + 1])) for span in spans(tags)]
            row["entities"] = [
                {"type": span.kind, "text": text, "first": span.first, "last": span.last} for span, text in each
            ]
        told.append(row)
    return told


def judge(reader: Reader, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Judged:
    """Compare with the rows' own tags; one that the model does not know is never predicted, and wrong.

    Raises:
        DataError: No row has a tag that the model knows.
    """
    assert reader.purpose.labels is not None
    numbers = Numbers(reader.purpose.labels)
    pairs: list[tuple[list[str], list[str]]] = [
        (row["tags"], list(map(numbers.name, sample.example.tags)))
        for sample, row in zip(samples, predictions, strict=True)
        if isinstance(sample.example, Tagged)
    ]
    need_known(reader.names, [tag for _, true in pairs for tag in true])
    right = np.array([[sum(map(str.__eq__, *pair)), len(pair[1])] for pair in pairs])
    metrics = {"accuracy": float(right[:, 0].sum() / right[:, 1].sum())}
    if not marks_spans(reader.names):
        known = {
            name: place
            for place, name in enumerate(dict.fromkeys(tag for pair in pairs for one in pair for tag in one))
        }
        ours, true = ([known[tag] for pair in pairs for tag in pair[side]] for side in (0, 1))
        shares = of_counts(right, lambda sums: float(sums[0] / sums[1]) if sums[1] else 0.0)
        return Judged(metric="accuracy", metrics=metrics | {"f1_macro": f1(ours, true)}, values=shares)
    counts = [entity_counts(*pair) for pair in pairs]
    shares = of_counts(np.array(counts), lambda sums: harmonic(*map(float, sums)))
    return Judged(metric="f1", metrics=entity_f1(counts) | metrics, values=shares)
