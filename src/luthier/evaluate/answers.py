# SPDX-License-Identifier: Apache-2.0
"""Answers from contexts: the best spans over all windows of a context; judged by exact match and F1 of their texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.tasks import Question
from luthier.evaluate.judged import Judged
from luthier.kernels.spans import best_spans
from luthier.metrics.squad import exact, overlap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.evaluate.judged import Prediction
    from luthier.evaluate.reader import Laid, Reader
    from luthier.evaluate.samples import Sample

N_BEST = 20


def predict(reader: Reader, samples: Sequence[Sample]) -> list[Prediction]:
    """The answer to each question with its place, its share among the best ones, and the runners-up."""
    laid = reader.lay([sample.name for sample in samples], [sample.example for sample in samples])
    told = []
    for sample, one, found in zip(samples, laid, reader.read(laid), strict=True):
        assert isinstance(sample.example, Question)
        best, nothing = _best(reader, sample.example, one, found)
        may_be_none = reader.config.version_2_with_negative
        scores = np.array([answer["score"] for answer in best] + ([nothing] if may_be_none else []))
        shares = np.exp(scores - scores.max())
        shares = shares / shares.sum()
        best = [answer | {"score": float(share)} for answer, share in zip(best, shares[: len(best)], strict=True)]
        first: dict[str, Any] = best[0] if best else {"answer": "", "start": None, "end": None, "score": 1.0}
        if may_be_none and (not best or nothing - scores[0] > reader.config.null_score_diff_threshold):
            first = {"answer": "", "start": None, "end": None, "score": float(shares[-1])}
        told.append({"question": sample.example.question, **first, "n_best": best[:3]})
    return told


def _best(
    reader: Reader, question: Question, laid: Laid, found: Sequence[np.ndarray]
) -> tuple[list[dict[str, Any]], float]:
    """The best spans over all windows, each text once, and the score of no answer: the lowest over windows."""
    spans: list[tuple[float, int, int]] = []
    nothing = min(float(logits[0].sum()) for logits in found)
    for window, logits in zip(laid.windows, found, strict=True):
        for best in best_spans(logits, window.begins >= 0, reader.config.max_answer_length, N_BEST):
            spans.append((best.score, int(window.begins[best.first]), int(window.ends[best.last])))
    told: dict[str, dict[str, Any]] = {}
    for score, begin, end in sorted(spans, key=lambda span: -span[0])[:N_BEST]:
        text = question.context[begin:end]
        begin += len(text) - len(text.lstrip())
        told.setdefault(
            text.strip(), {"answer": text.strip(), "start": begin, "end": begin + len(text.strip()), "score": score}
        )
    return list(told.values()), nothing


def judge(reader: Reader, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Judged:  # noqa: ARG001
    """Exact match and F1 of the answers' texts, over all right answers of a question."""
    given = [sample.example.answers for sample in samples if isinstance(sample.example, Question)]
    said = [row["answer"] for row in predictions]
    scores = np.array([overlap(ours, true) for ours, true in zip(said, given, strict=True)])
    same = [exact(ours, true) for ours, true in zip(said, given, strict=True)]
    metrics = {"f1": float(scores.mean()), "exact_match": float(np.mean(same))}
    return Judged(metric="f1", metrics=metrics, values=scores)
