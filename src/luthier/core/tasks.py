# SPDX-License-Identifier: Apache-2.0
"""Tasks: what a model is loaded for, which kinds of rows there are, and rows that say what is true of a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Task = Literal[
    "CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"
]  # PEFT's words
Problem = Literal["single_label_classification", "multi_label_classification", "regression"]  # transformers' words

RowKind = Literal["plain", "judged", "labelled", "tagged", "question", "texts"]
"""What a row is: text to be written, judged answers, a text with labels, words with tags, a question about a context,
or texts that belong together."""

IGNORED = -100
"""The label of a token that has none, as in transformers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """A text, or a pair of texts, and what is true of it.

    Attributes:
        text: The text.
        pair: A second text (a hypothesis, an answer ...), or None.
        labels: Names of its classes: one, or any number of several; or its values, for a regression.
    """

    text: str
    pair: str | None = None
    labels: tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tagged:
    """Words and a tag for each, as in CoNLL files.

    Attributes:
        words: The words.
        tags: As many names; by convention O, B-type and I-type.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question whose answer is a span of a context, as in SQuAD.

    Attributes:
        question: The question.
        context: The text that is searched.
        answers: Texts of right answers; none where the context holds none (SQuAD 2).
        starts: First character of each in the context.
        name: The row's own id, where it has one; else "".
    """

    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Texts that are compared: two with a similarity, or an anchor, its positive and texts that it is unlike.

    Attributes:
        texts: Two at least.
        grades: Of each: NaN for the anchor (or for both of a scored pair), 1 for a positive, 0 for a negative.
        score: The similarity of a pair in the data's own unit; None for an anchor with positives.
    """

    texts: tuple[str, ...]
    grades: tuple[float, ...]
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the rows of a run can be labelled with.

    Attributes:
        names: Of the classes or tags, in the order of their numbers; for a regression of its values.
        counts: How often each stands in the training rows; empty for a regression.
        problem: What a text's labels are.
        fixed: Whether somebody named them in order (the recipe, a checkpoint): rows may then give them by number too.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...] = ()
    problem: Problem = "single_label_classification"
    fixed: bool = field(default=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)
