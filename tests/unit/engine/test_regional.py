# SPDX-License-Identifier: Apache-2.0
"""`torch_compile`: the same losses from compiled layers, one program for batches of any shape."""

from __future__ import annotations

import pytest
import torch
from tests.runs import metrics, tree

import luthier
from luthier.core.errors import RecipeError
from luthier.engine.regional import compile_layers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler raises and hides its own
@pytest.mark.parametrize("method", [{"name": "lora", "r": 4}, {"name": "full"}], ids=["lora", "full"])
def test_same_losses(tiny_llama, alpaca_file, tmp_path, method):
    torch.compiler.reset()

    def losses(name, **train):
        given = {"max_steps": 6, "per_device_train_batch_size": 1} | train
        recipe = tree(tiny_llama, alpaca_file, tmp_path / name, method=method, train=given)
        return [line["loss"] for line in metrics(luthier.train(recipe).folder)]

    torch._dynamo.utils.counters.clear()
    compiled = losses("compiled", torch_compile=True)
    assert compiled == pytest.approx(losses("plain"), rel=1e-5)
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["ok"] > 0, "nothing was compiled"
    assert frames["ok"] < 30, "compiled anew for each batch"


def test_a_model_without_layers():
    model = torch.nn.Linear(2, 2)
    model.get_decoder = lambda: model
    with pytest.raises(RecipeError, match=r"train.torch_compile: Linear has no list of layers"):
        compile_layers(model)
