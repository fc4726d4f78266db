# SPDX-License-Identifier: Apache-2.0
"""Targets that an encoder-decoder writes from sources; judged by ROUGE-L and BLEU over all right targets of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import DataError
from luthier.data.faults import RowFault
from luthier.data.kinds.source_target import pair_of
from luthier.evaluate.judged import Judged
from luthier.metrics.bleu import bleu
from luthier.metrics.rouge import rouge_l
from luthier.models.generate import stop_ids
from luthier.models.generate_pairs import Asked, encode_sources, write_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.evaluate.judged import Prediction
    from luthier.evaluate.reader import Reader
    from luthier.evaluate.samples import Sample

GREEDY = Asked(max_new_tokens=128, batch_size=16, temperature=0.0, top_p=1.0, seed=0)


def predict(reader: Reader, samples: Sequence[Sample]) -> list[Prediction]:
    """The target of each source, the likeliest token each time; sources are cut where training cut them."""
    sources = []
    for sample in samples:
        pair = pair_of(sample.example)  # type: ignore[arg-type]  # rows of other kinds are told as faults
        if isinstance(pair, RowFault):
            raise DataError(sample.name, str(pair), "a source to read", "leave it out")
        sources.append(pair[0])
    model, tokenizer = reader.model, reader.tokenizer
    ids = encode_sources(tokenizer, sources, most=reader.purpose.data.get("max_length"))
    written = write_targets(model, tokenizer, ids, stop_ids(model, tokenizer, raw=True), GREEDY)
    return [{"source": source, "target": text.strip()} for source, text in zip(sources, written, strict=True)]


def judge(reader: Reader, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Judged:  # noqa: ARG001
    """ROUGE-L, the mean over rows of the best right target; and BLEU of all rows together."""
    given, said = [sample.references for sample in samples], [row["target"] for row in predictions]
    scores = np.array([rouge_l(ours, true) for ours, true in zip(said, given, strict=True)])
    same = [ours in true for ours, true in zip(said, given, strict=True)]
    metrics = {"rouge_l": float(scores.mean()), "bleu": bleu(said, given), "exact_match": float(np.mean(same))}
    return Judged(metric="rouge_l", metrics=metrics, values=scores)
