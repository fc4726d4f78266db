# SPDX-License-Identifier: Apache-2.0
"""The gradient of a step on labels, spans and texts does not depend on its split, through a real model."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tests.judged import bound
from tests.labelled import rows_of_kind
from tests.reward import base

from luthier.core.tasks import Labels
from luthier.engine.best import greater, is_better
from luthier.engine.step import accumulate, evaluate_loss
from luthier.models import load_model
from luthier.recipe import Model
from luthier.recipe.schema import Train
from luthier.recipe.tasks import rows_of, tasks_of

pytestmark = pytest.mark.invariant
OBJECTIVES = [
    ("classification", {"class_weights": "balanced"}),
    ("token_classification", {}),
    ("question_answering", {}),
    ("contrastive", {"symmetric": True}),
    ("cosine", {}),
    ("cosine", {"loss_type": "cosent"}),
]
COUNTS = {"classification": 3, "token_classification": 4}


@pytest.fixture(params=OBJECTIVES, ids=lambda one: "-".join(map(str, (one[0], *one[1].values()))))
def task(request, tmp_path):
    name, keys = request.param
    count = COUNTS.get(name)
    labels = Labels(names=tuple(map(str, range(count)))) if count else None
    words = {"task": tasks_of(name)[0], "num_labels": count, "labels": labels, "say": lambda _: None}
    model = load_model(Model(model_name_or_path=str(base(tmp_path / "base"))), torch.float32, **words).double()
    return model, bound(name, keys), rows_of_kind(rows_of(name), name, keys)


def gradient(model, objective, batches):
    model.zero_grad()
    result = accumulate(model, objective, batches)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return result.loss, found


@pytest.mark.parametrize("split", [[1, 1, 1, 1, 1], [2, 3], [4, 0, 1]], ids=str)
def test_the_split_does_not_matter(task, split):
    model, objective, trees = task
    whole, expected = gradient(model, objective, [trees])
    ends = [sum(split[:k]) for k in range(len(split) + 1)]
    parts, found = gradient(model, objective, [trees[a:b] for a, b in pairwise(ends)])
    assert parts == pytest.approx(whole, rel=1e-9)
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 0.0
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 1e-6 * largest, name  # heads give float32


def test_evaluations_have_the_metrics_of_all_batches(task):
    model, objective, trees = task
    whole = evaluate_loss(model, objective, [trees])
    apart = evaluate_loss(model, objective, [trees[:2], trees[2:]])
    records = {name for name in whole if name not in ("loss", "loss_start", "loss_end", "cosine")}
    if type(objective).__name__ == "Contrastive":
        records.discard("accuracy")  # of a batch's own negatives
    assert records
    assert {name: apart[name] for name in records} == pytest.approx({name: whole[name] for name in records}, rel=1e-6)


def test_what_is_better():
    assert not greater(Train(metric_for_best_model="eval_loss"))
    assert not greater(Train(metric_for_best_model="mse"))
    assert greater(Train(metric_for_best_model="f1"))
    assert not greater(Train(metric_for_best_model="f1", greater_is_better=False))
    f1 = Train(metric_for_best_model="f1")
    assert is_better(f1, {"f1": 0.2}, {})
    assert is_better(f1, {"f1": 0.2}, {"f1": 0.1})
    assert not is_better(f1, {"f1": 0.1}, {"f1": 0.1})
    assert not is_better(f1, {"f1": float("nan")}, {})
