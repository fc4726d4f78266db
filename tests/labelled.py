# SPDX-License-Identifier: Apache-2.0
"""Rows of the other kinds for tests of objectives: labelled texts, tagged words, questions, texts that are compared.

Each is a step of five rows, some of which say nothing, and what a model says of them: shapes as in
`core.trainable.Objective.loss`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luthier.core.tasks import IGNORED, Labels
from luthier.core.types import Segment, Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASSES = Labels(names=("bad", "fair", "good"), counts=(3, 1, 4))
TAGS = Labels(names=("O", "B-PER", "I-PER", "B-LOC"), counts=(9, 2, 1, 2))
SEVERAL = Labels(names=("a", "b", "c"), counts=(2, 2, 1), problem="multi_label_classification")
VALUES = Labels(names=("score",), problem="regression")
WIDTH = 4  # of hidden states


def segment(length: int, random: np.random.Generator, labels: Sequence[int] | None = None) -> Segment:
    """Random tokens."""
    return Segment(
        ids=random.integers(3, 60, length).astype(np.int32),
        scored=np.zeros(length, bool),
        labels=None if labels is None else np.array(labels, np.int32),
    )


def labelled_rows(problem: str = "single_label_classification") -> list[Tree]:
    """Five texts, the third without labels."""
    random = np.random.default_rng(3)
    targets = {
        "single_label_classification": [(2.0,), (0.0,), (), (1.0,), (2.0,)],
        "multi_label_classification": [(1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0)],
        "regression": [(0.5,), (-1.0,), (), (2.25,), (0.0,)],
    }[problem]
    return [
        Tree(segments=(segment(3 + place, random),), targets=target, row=f"texts:{place}")
        for place, target in enumerate(targets)
    ]


def tagged_rows() -> list[Tree]:
    """Five sentences with tags on the first token of each word; the fourth has none."""
    random = np.random.default_rng(4)
    tags = [[IGNORED, 1, 2, IGNORED, 0], [0, 0], [3, IGNORED, 0, 1], None, [IGNORED, 0, 3, IGNORED]]
    return [
        Tree(segments=(segment(len(some or [0, 0]), random, some),), row=f"words:{place}")
        for place, some in enumerate(tags)
    ]


def question_rows() -> list[Tree]:
    """Five windows of two tokens of question and some of context; the second holds no answer, the third no target."""
    random = np.random.default_rng(5)
    rows = []
    for place, (length, target) in enumerate([(6, (3, 4)), (5, (0, 0)), (4, ()), (7, (2, 2)), (8, (4, 7))]):
        labels = [IGNORED, IGNORED, *[0] * (length - 2)]
        tree = Tree(segments=(segment(length, random, labels),), targets=tuple(map(float, target)), row=f"q:{place}")
        rows.append(tree)
    return rows


def texts_row(seed: int, grades: Sequence[float], score: float | None = None) -> Tree:
    """A root without tokens and texts below it."""
    random = np.random.default_rng(seed)
    nothing = Segment(ids=np.zeros(0, np.int32), scored=np.zeros(0, bool))
    texts = [segment(int(random.integers(2, 6)), random) for _ in grades]
    return Tree(
        segments=(nothing, *texts),
        parents=(-1, *[0] * len(texts)),
        grades=(math.nan, *grades),
        scores=() if score is None else (math.nan, *[score] * len(texts)),
        row=f"texts:{seed}",
    )


def compared_rows() -> list[Tree]:
    """Anchors with a positive, with negatives too, with two positives, and one with negatives alone."""
    nan = math.nan
    return [
        texts_row(0, [nan, 1.0]),
        texts_row(1, [nan, 1.0, 0.0, 0.0]),
        texts_row(2, [nan, 0.0]),
        texts_row(3, [nan, 1.0, 1.0]),
        texts_row(4, [nan, 1.0]),
    ]


def scored_rows(high: float = 1.0) -> list[Tree]:
    """Pairs with a score, and one of an anchor and its positive, which has none."""
    scores = [0.2, 1.0, None, 0.5, 0.2]
    return [
        texts_row(place, [math.nan, 1.0 if score is None else math.nan], None if score is None else score * high)
        for place, score in enumerate(scores)
    ]


def shape_of(name: str, tree: Tree, keys: dict[str, Any]) -> tuple[int, ...]:
    """What a model gives of a tree."""
    if name == "classification":
        return (len(tree.segments), 1 if keys.get("problem_type") == "regression" else 3)
    wide = {"token_classification": 4, "question_answering": 2, "contrastive": WIDTH, "cosine": WIDTH}
    return (len(tree), wide[name])


def labels_for(name: str, keys: dict[str, Any]) -> Labels | None:
    """What the rows are labelled with."""
    if name == "token_classification":
        return TAGS
    if name != "classification":
        return None
    return {"multi_label_classification": SEVERAL, "regression": VALUES}.get(keys.get("problem_type", ""), CLASSES)


def rows_of_kind(kind: str, name: str, keys: dict[str, Any]) -> list[Tree]:
    """A step of these rows."""
    if kind == "labelled":
        return labelled_rows(keys.get("problem_type", "single_label_classification"))
    if kind == "texts":
        return scored_rows() if name == "cosine" else compared_rows()
    return {"tagged": tagged_rows, "question": question_rows}[kind]()


def drawn(name: str, trees: Sequence[Tree], keys: dict[str, Any], dtype: torch.dtype) -> list[torch.Tensor]:
    """What a model says of each tree, at random."""
    random = torch.Generator().manual_seed(11)
    shapes = [shape_of(name, tree, keys) for tree in trees]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes]
