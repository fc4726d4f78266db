# SPDX-License-Identifier: Apache-2.0
"""Entity F1: spans of words with a type, each right only as a whole, as conlleval counts them.

Tags are `O`, or a part (B, I, E or S) and a type: `B-PER`. A span is read leniently, as conlleval and seqeval's
default do: an `I-X` that follows `O` or another type begins one. (seqeval's `mode="strict"` would drop it.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from luthier.metrics.f1 import harmonic

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = "BIES"


class Span(NamedTuple):
    """Words that are one entity.

    Attributes:
        kind: Its type.
        first: Its first word.
        last: Its last word.
    """

    kind: str
    first: int
    last: int


class Counts(NamedTuple):
    """What a sentence adds to the metric: entities found rightly, entities predicted, entities there."""

    hits: int
    predicted: int
    true: int


def marks_spans(names: Sequence[str]) -> bool:
    """Whether tags mark spans: each is `O` or has a part and a type, and one at least has."""
    marked = [name for name in names if name != "O"]
    return bool(marked) and all(len(name) > 2 and name[1] == "-" and name[0] in PARTS for name in marked)


def spans(tags: Sequence[str]) -> list[Span]:
    """The entities of one sentence, in order.

    Example:
        >>> spans(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])
        [Span(kind='PER', first=0, last=1), Span(kind='LOC', first=3, last=3), Span(kind='LOC', first=4, last=4)]
    """
    found: list[Span] = []
    part, kind, first = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        now, _, named = tag.partition("-")
        if now not in PARTS or not named:
            now, named = "O", ""
        if part != "O" and (part in "ES" or now in "BSO" or named != kind):
            found.append(Span(kind, first, place - 1))
        if now != "O" and (now in "BS" or part in "ESO" or named != kind):
            first = place
        part, kind = now, named
    return found


def entity_counts(predicted: Sequence[str], target: Sequence[str]) -> Counts:
    """What one sentence adds.

    Raises:
        ValueError: Not one predicted tag for each word.
    """
    if len(predicted) != len(target):
        raise ValueError(f"{len(predicted)} predicted tags for {len(target)} words")
    ours, true = set(spans(predicted)), set(spans(target))
    return Counts(len(ours & true), len(ours), len(true))


def entity_f1(counts: Sequence[Counts]) -> dict[str, float]:
    """Precision, recall and F1 over sentences; NaN of no sentences, 0 where nothing is there to be found.

    Reference:
        Tjong Kim Sang and De Meulder, Introduction to the CoNLL-2003 shared task, 2003, section 2.3.

    Example:
        >>> one = entity_counts(["B-PER", "O", "B-LOC"], ["B-PER", "O", "O"])
        >>> {name: round(value, 3) for name, value in entity_f1([one]).items()}
        {'precision': 0.5, 'recall': 1.0, 'f1': 0.667}
    """
    if not counts:
        return dict.fromkeys(("precision", "recall", "f1"), math.nan)
    hits, predicted, true = (sum(part) for part in zip(*counts, strict=True))
    return {
        "precision": hits / predicted if predicted else 0.0,
        "recall": hits / true if true else 0.0,
        "f1": harmonic(hits, predicted, true),
    }
