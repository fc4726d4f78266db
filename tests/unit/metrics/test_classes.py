# SPDX-License-Identifier: Apache-2.0
"""Metrics of classes and tags: counted by hand, and as scikit-learn and seqeval give them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luthier.metrics.accuracy import accuracy
from luthier.metrics.entity_f1 import Span, entity_counts, entity_f1, marks_spans, spans
from luthier.metrics.f1 import f1
from luthier.metrics.matthews import matthews

PREDICTED, TARGET = [0, 2, 1, 1, 0, 2, 2], [0, 1, 1, 1, 2, 2, 0]


def test_classes_by_hand():
    # Class 0: 1 hit of 2 said, 2 true; 1: 2 of 2, 3; 2: 1 of 3, 2.
    assert f1(PREDICTED, TARGET) == pytest.approx((2 / 4 + 4 / 5 + 2 / 5) / 3, rel=1e-15)
    assert f1(PREDICTED, TARGET, "micro") == accuracy(PREDICTED, TARGET) == 4 / 7
    # c n - p.t = 4 * 7 - (2*2 + 2*3 + 3*2) = 12; n^2 - p.p = 49 - 17, n^2 - t.t = 49 - 17.
    assert matthews(PREDICTED, TARGET) == pytest.approx(12 / 32, rel=1e-15)


def naive_f1(ours, true, label):
    hits = sum(a == b == label for a, b in zip(ours, true, strict=True))
    return 2 * hits / (sum(a == label for a in ours) + sum(b == label for b in true))


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_the_mean_of_the_classes_that_occur(seed):
    random = np.random.default_rng(seed)
    ours, true = random.choice([0, 3, 4], (2, 20)).tolist()
    labels = sorted({*ours, *true})
    assert f1(ours, true) == pytest.approx(np.mean([naive_f1(ours, true, label) for label in labels]), rel=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_matthews_of_two_classes_is_the_phi_coefficient(seed):
    ours, true = np.random.default_rng(seed).integers(0, 2, (2, 25))
    assert matthews(ours, true) == pytest.approx(np.corrcoef(ours, true)[0, 1], rel=1e-12)


def test_several_labels():
    ours, true = [[1, 0, 1], [0, 0, 0], [1, 1, 0]], [[1, 0, 0], [0, 0, 0], [1, 1, 0]]
    assert accuracy(ours, true) == 2 / 3
    assert f1(ours, true, "micro") == pytest.approx(2 * 3 / (4 + 3))
    assert f1(ours, true) == pytest.approx((1 + 1 + 0) / 3)


def test_nothing_and_chance():
    assert all(math.isnan(metric([], [])) for metric in (accuracy, f1, matthews))
    assert matthews([1, 1, 1], [0, 1, 1]) == 0.0
    assert f1([[0, 0]], [[0, 0]]) == 0.0
    for metric in (accuracy, f1, matthews):
        with pytest.raises(ValueError, match="shape"):
            metric([1, 2], [1])


# What seqeval 1.2.2 gives in its default mode (get_entities).
READ = [
    ("B-A I-A O", [("A", 0, 1)]),
    ("I-A I-A B-A", [("A", 0, 1), ("A", 2, 2)]),
    ("B-A I-B I-B", [("A", 0, 0), ("B", 1, 2)]),
    ("O I-A O I-A", [("A", 1, 1), ("A", 3, 3)]),
    ("S-A S-A", [("A", 0, 0), ("A", 1, 1)]),
    ("B-A I-A E-A I-A", [("A", 0, 2), ("A", 3, 3)]),
    ("B-A-B I-A-B", [("A-B", 0, 1)]),
    ("O O", []),
    ("", []),
]


@pytest.mark.parametrize(("tags", "expected"), READ)
def test_spans(tags, expected):
    assert spans(tags.split()) == [Span(*one) for one in expected]


def test_entities_are_right_as_a_whole():
    counts = [
        entity_counts("B-A I-A O B-B".split(), "B-A I-A O B-A".split()),  # one of two, its type wrong
        entity_counts("B-A O".split(), "B-A I-A".split()),  # too short
        entity_counts(["O"], ["O"]),
    ]
    assert entity_f1(counts) == {"precision": 1 / 3, "recall": 1 / 3, "f1": pytest.approx(1 / 3)}
    assert entity_f1([entity_counts(["O"], ["O"])]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert math.isnan(entity_f1([])["f1"])
    with pytest.raises(ValueError, match="2 predicted tags for 1 words"):
        entity_counts(["O", "O"], ["O"])


def test_which_tags_mark_spans():
    assert marks_spans(["O", "B-A", "I-A"])
    assert not marks_spans(["O", "NOUN"])
    assert not marks_spans(["O"])
    assert not marks_spans(["B-A", "X-B"])
