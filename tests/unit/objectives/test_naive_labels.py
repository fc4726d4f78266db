# SPDX-License-Identifier: Apache-2.0
"""Objectives of labels, spans and embeddings equal their formulas in plain float64, written with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.judged import bound, loss_of, rows_for, said, taken, units_of
from tests.labelled import CLASSES, SEVERAL, TAGS, VALUES, compared_rows, scored_rows, texts_row

from luthier.core.errors import DataError, LuthierError, RecipeError
from luthier.core.tasks import Labels
from luthier.core.trainable import Gathering
from luthier.kernels.forest import plant


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def entropy(logits, target, weights=None, smoothing=0.0):
    """-sum over classes of w_c q_c log p_c, with q the smoothed target."""
    shares = softmax(logits)
    q = [smoothing / len(shares) + (1 - smoothing) * (place == target) for place in range(len(shares))]
    weights = weights or [1.0] * len(shares)
    return -sum(w * one * math.log(p) for w, one, p in zip(weights, q, shares, strict=True))


def losses(name, keys):
    trees = rows_for(name, keys)
    outputs = said(name, trees, keys=keys)
    return trees, [value.tolist() for value in outputs], loss_of(bound(name, keys), trees, outputs)


# Balanced: 8 rows / (3 classes x rows of the class).
@pytest.mark.parametrize(
    ("keys", "weights", "smoothing"),
    [
        ({}, None, 0.0),
        ({"label_smoothing_factor": 0.3}, None, 0.3),
        ({"class_weights": "balanced"}, [8 / 9, 8 / 3, 8 / 12], 0.0),
        ({"class_weights": {"good": 4.0}, "label_smoothing_factor": 0.1}, [1.0, 1.0, 4.0], 0.1),
    ],
)
def test_one_class(keys, weights, smoothing):
    trees, outputs, loss = losses("classification", keys)
    known = [(values[0], int(tree.targets[0])) for tree, values in zip(trees, outputs, strict=True) if tree.targets]
    expected = sum(entropy(values, target, weights, smoothing) for values, target in known)
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    right = sum(int(np.argmax(values)) == target for values, target in known)
    assert float(loss.metrics["accuracy"]) == right


def test_several_labels_and_values():
    trees, outputs, loss = losses("classification", {"problem_type": "multi_label_classification"})
    expected = 0.0
    for tree, values in zip(trees, outputs, strict=True):
        if tree.targets:
            shares = [1 / (1 + math.exp(-value)) for value in values[0]]
            each = [-math.log(p if y else 1 - p) for p, y in zip(shares, tree.targets, strict=True)]
            expected += sum(each) / 3
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    trees, outputs, loss = losses("classification", {"problem_type": "regression"})
    squares = [(v[0][0] - t.targets[0]) ** 2 for t, v in zip(trees, outputs, strict=True) if t.targets]
    assert loss.total.item() == pytest.approx(sum(squares), rel=1e-12)


def test_a_single_value_may_come_without_an_axis():
    objective = bound("classification", {"problem_type": "regression"})
    trees = rows_for("classification", {"problem_type": "regression"})
    values = torch.randn(5, dtype=torch.float64)
    flat = objective.loss(values, plant(trees)).total
    assert flat == objective.loss(values[:, None], plant(trees)).total


def test_tags_and_spans():
    keys = {"class_weights": {"O": 0.5}}
    trees, outputs, loss = losses("token_classification", keys)
    expected = 0.0
    for tree, values in zip(trees, outputs, strict=True):
        labels = tree.segments[0].labels
        for value, label in zip(values, [] if labels is None else labels, strict=labels is not None):
            expected += entropy(value, label, [0.5, 1, 1, 1]) if label >= 0 else 0.0
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    trees, outputs, loss = losses("question_answering", {})
    expected = 0.0
    for tree, values in zip(trees, outputs, strict=True):
        for side, target in enumerate(tree.targets):
            expected += entropy([value[side] for value in values], int(target)) / 2
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)


def vectors(tree, values, pooling, normalize):
    found, start = [], 0
    for segment in tree.segments:
        own = np.array(values[start : start + len(segment)])
        start += len(segment)
        if len(segment):
            vector = {"mean": own.mean(0), "cls": own[0], "last": own[-1]}[pooling]
            found.append(vector / np.linalg.norm(vector) if normalize else vector)
    return found


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("pooling", "normalize", "scale"), [("mean", True, 20.0), ("cls", False, 0.5)])
def test_contrastive(symmetric, pooling, normalize, scale):
    """As MultipleNegativesRankingLoss of sentence-transformers: all positives and negatives of the step."""
    keys = {"symmetric": symmetric, "pooling": pooling, "normalize": normalize, "scale": scale}
    trees, outputs, loss = losses("contrastive", keys)
    pairs, negatives = [], []
    for number, (tree, values) in enumerate(zip(trees, outputs, strict=True)):
        texts = vectors(tree, values, pooling, normalize)
        found = [text for text, grade in zip(texts, tree.grades[1:], strict=True) if grade == 1.0]
        pairs += [(number, texts[0], positive) for positive in found]
        negatives += [t for t, grade in zip(texts, tree.grades[1:], strict=True) if grade == 0.0 and found]
    expected = 0.0
    for place, (owner, anchor, positive) in enumerate(pairs):
        others = [p for k, (o, _, p) in enumerate(pairs) if o != owner or k == place]
        mine = next(k for k, p in enumerate(others) if p is positive)
        there = entropy([scale * float(anchor @ other) for other in (*others, *negatives)], mine)
        anchors = [a for k, (o, a, _) in enumerate(pairs) if o != owner or k == place]
        back = entropy([scale * float(positive @ other) for other in anchors], mine)
        expected += (there + back) / 2 if symmetric else there
    assert units_of(bound("contrastive", keys), trees) == len(pairs) == 5
    assert loss.total.item() == pytest.approx(expected, rel=1e-11)


def test_cosine_and_cosent():
    trees, outputs, loss = losses("cosine", {"score_range": (0.0, 2.0)})
    cosines, scores = [], []
    for tree, values in zip(trees, outputs, strict=True):
        if tree.scores:
            first, second = vectors(tree, values, "mean", True)
            cosines.append(float(first @ second))
            scores.append(tree.scores[1])
    expected = sum((cosine - score / 2) ** 2 for cosine, score in zip(cosines, scores, strict=True))
    assert loss.total.item() == pytest.approx(expected, rel=1e-11)
    _, _, loss = losses("cosine", {"loss_type": "cosent", "scale": 5.0})
    pairs = [(i, j) for i in range(4) for j in range(4) if scores[i] > scores[j]]
    expected = math.log(1 + sum(math.exp(5.0 * (cosines[j] - cosines[i])) for i, j in pairs))
    assert loss.total.item() == pytest.approx(4 * expected, rel=1e-11)


def test_what_is_compared_over_the_step_is_what_one_batch_would_compare():
    """The value of a share counts its own anchors; nothing is compared with itself alone."""
    objective, trees = bound("contrastive", {}), compared_rows()
    outputs = said("contrastive", trees)
    alone = [loss_of(objective, [tree], [values]).total.item() for tree, values in zip(trees, outputs, strict=True)]
    together = [loss.total.item() for loss in taken(objective, trees, outputs, [1] * 5)]
    assert alone[0] == alone[4] == 0.0
    assert min(together[0], together[4]) > 0.0
    assert isinstance(objective, Gathering)
    assert not isinstance(bound("cosine", {}), Gathering)  # no pass of its own where nothing is gathered


def test_metrics_of_whole_evaluations():
    objective, trees = bound("contrastive", {}), [texts_row(seed, [math.nan, 1.0]) for seed in range(6)]
    outputs = said("contrastive", trees)
    found = objective.metrics(objective.records(torch.cat(outputs), plant(trees)))
    texts = [vectors(tree, values.tolist(), "mean", True) for tree, values in zip(trees, outputs, strict=True)]
    ranks = [1 + sum(float(a @ q) > float(a @ p) for _, q in texts) for a, p in texts]
    assert found["accuracy@1"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert found["mrr@10"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    tags = bound("token_classification", {})
    trees = rows_for("token_classification")
    logits = torch.cat([torch.nn.functional.one_hot(torch.tensor([0] * len(tree)), 4).double() for tree in trees])
    for place, tag in [(1, 1), (2, 2), (7, 3)]:  # B-PER I-PER of the first sentence, B-LOC of the third
        logits[place] = torch.nn.functional.one_hot(torch.tensor(tag), 4)
    found = tags.metrics(tags.records(logits, plant(trees)))
    assert found == pytest.approx({"accuracy": 8 / 10, "precision": 1.0, "recall": 0.5, "f1": 2 / 3})


def test_bad_keys_are_told():
    from luthier.objectives import classification, contrastive, cosine, token_classification

    config = classification.Config
    with pytest.raises(RecipeError, match=r"unknown class 'goood'.*did you mean 'good'"):
        classification.bind(config(class_weights={"goood": 1.0}), CLASSES)
    for labels in (SEVERAL, VALUES):
        with pytest.raises(RecipeError, match="rows of one class each"):
            classification.bind(config(class_weights="balanced"), labels)
        with pytest.raises(RecipeError, match="label_smoothing_factor"):
            classification.bind(config(label_smoothing_factor=0.1), labels)
    with pytest.raises(RecipeError, match="one class only"):
        classification.bind(config(), Labels(names=("a",), counts=(3,)))
    with pytest.raises(RecipeError, match="labels without counts"):
        token_classification.bind(token_classification.Config(class_weights="balanced"), Labels(names=TAGS.names))
    for keys in ({"score_range": (1.0, 1.0)}, {"scale": 3.0}):
        with pytest.raises(ValidationError, match=r"score_range goes|belongs to loss_type cosent"):
            cosine.Config(**keys)
    with pytest.raises(ValidationError):
        contrastive.Config(pooling="max")
    with pytest.raises(DataError, match=r"a score of 5; objective.score_range, 0 to 1"):
        loss_of(bound("cosine", {}), scored_rows(5.0), said("cosine", scored_rows(5.0)))
    with pytest.raises(LuthierError, match="does not carry the step's embeddings"):
        bound("contrastive", {}).loss(torch.cat(said("contrastive", compared_rows())), plant(compared_rows()))
