# SPDX-License-Identifier: Apache-2.0
"""A step's sums, and evaluation without dropout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from luthier.core.trainable import Loss
from luthier.core.types import Segment, Tree
from luthier.engine.step import accumulate, evaluate_loss
from luthier.methods import lora
from luthier.models import load_model
from luthier.objectives import sft
from luthier.recipe import Model


@pytest.fixture
def model(tiny_llama):
    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    lora.apply(model, lora.Config(r=4, lora_dropout=0.5))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def tree(length, scored, row=""):
    marks = np.arange(length) >= length - scored
    return Tree(segments=(Segment(ids=np.arange(length, dtype=np.int32), scored=marks),), row=row)


class Counted:
    """An objective with a metric, whose units are trees."""

    def units(self, forest):
        return len(forest.rows)

    def loss(self, logps, forest):
        return Loss(total=-logps.sum(), metrics={"scored": torch.tensor(float(len(logps)))})


def test_sums(model):
    found = accumulate(model, Counted(), [[tree(5, 2, "a"), tree(6, 3, "b")], [tree(9, 4, "c")]])
    assert (found.units, found.tokens, found.scored_tokens) == (3, 20, 9)
    assert found.rows == ("a", "b", "c")
    assert found.sums["scored"] == 9.0
    assert found.loss == found.sums["loss"] / 3


def test_nothing_scored(model):
    found = accumulate(model, sft.Sft(sft.Config()), [[tree(5, 0)]])
    assert (found.loss, found.units, found.scored_tokens) == (0.0, 1, 0)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_rows_of_the_broken_micro_batch(model):
    class Broken(Counted):
        def loss(self, logps, forest):
            found = super().loss(logps, forest)
            return Loss(total=found.total * (float("nan") if "b" in forest.rows else 1), metrics={})

    found = accumulate(model, Broken(), [[tree(5, 2, "a")], [tree(6, 3, "b"), tree(6, 3, "c")], [tree(5, 2, "d")]])
    assert found.rows == ("b", "c")
    assert found.loss != found.loss


def test_evaluation_has_no_dropout_and_leaves_no_trace(model):
    batches = [[tree(9, 5)], [tree(12, 2), tree(4, 1)]]
    state = torch.get_rng_state()
    first = evaluate_loss(model, sft.Sft(sft.Config()), batches)
    assert first == evaluate_loss(model, sft.Sft(sft.Config()), batches)
    assert first["loss"] == pytest.approx(
        evaluate_loss(model, sft.Sft(sft.Config()), [[t for batch in batches for t in batch]])["loss"], rel=1e-6
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluation_of_nothing(model):
    assert evaluate_loss(model, sft.Sft(sft.Config()), []) == {}
