# SPDX-License-Identifier: Apache-2.0
"""Optimisers of bitsandbytes: near their float32 forms, resumed to the bit, and missed with a word on what to do."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from tests.runs import bits, stop_before, tree

import luthier
from luthier.core.errors import MissingExtra
from luthier.core.trainable import ParameterGroup
from luthier.engine.checkpoint import Saved, load_checkpoint, save_checkpoint
from luthier.engine.optim import build_optimizer, check_optimizer, state_bytes
from luthier.recipe import Optim, load_recipe
from luthier.run import preview

NAMES = ["adamw_8bit", "paged_adamw_8bit", "lion_8bit", "paged_lion_8bit"]
SPELT = [*NAMES, "adamw_bnb_8bit"]
PLAIN = {name: "lion" if "lion" in name else "adamw" for name in SPELT}
pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def there():
    check_or_skip()


def check_or_skip():
    try:
        check_optimizer(Optim(optim="adamw_8bit"))
    except MissingExtra:
        pytest.skip("bitsandbytes is not installed")


def made(name):
    """Two matrices large enough for states of 8 bits, and a vector that is not."""
    torch.manual_seed(0)
    shapes = {"a": (96, 64), "b": (64, 96), "bias": (64,)}
    parameters = {key: torch.nn.Parameter(torch.randn(*shape)) for key, shape in shapes.items()}
    trainable = SimpleNamespace(groups=(ParameterGroup(parameters=parameters),), transforms={})
    return parameters, build_optimizer(Optim(optim=name, learning_rate=1e-3, weight_decay=0.1), trainable, parameters)


def step(parameters, optimizer, number):
    draw = torch.Generator().manual_seed(number)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=draw)
    optimizer.step()
    optimizer.zero_grad()


@each
def test_it_is_near_its_float32_form(name, there):
    (eight, optimizer), (full, plain) = made(name), made(PLAIN[name])
    before = {key: p.detach().clone() for key, p in full.items()}
    for number in range(5):
        step(eight, optimizer, number)
        step(full, plain, number)
    for key, wanted in full.items():
        moved, apart = (wanted - before[key]).norm(), (eight[key] - wanted).norm()
        assert apart < 0.15 * moved, "Lion turns some signs around zero"
    assert (eight["bias"] - full["bias"]).abs().max() < 1e-6, "small tensors keep float32 states"
    states = optimizer.state[eight["a"]]
    held = sum(value.nbytes for key, value in states.items() if key.startswith("state"))
    assert held == state_bytes(Optim(optim=name)) * 96 * 64


@each
def test_a_checkpoint_goes_on_to_the_bit(name, there, tmp_path):
    parameters, optimizer = made(name)
    for number in range(3):
        step(parameters, optimizer, number)
    path = save_checkpoint(tmp_path, 3, parameters, optimizer, Saved(progress={}, random={}, about={}))
    again, fresh = made(name)
    step(again, fresh, 9)
    load_checkpoint(path, again, fresh)
    for number in (4, 5):
        step(parameters, optimizer, number)
        step(again, fresh, number)
    assert all(torch.equal(parameters[key], again[key]) for key in parameters)


@pytest.mark.parametrize("weights", ["float32", "bfloat16_stochastic"])
@pytest.mark.parametrize("name", ["adamw_bnb_8bit", "lion_8bit"])
def test_a_run_stopped_and_resumed_ends_in_the_same_bits(name, weights, there, tiny_llama, alpaca_file, tmp_path):
    def recipe(folder):
        keys = {"optim": name, "weights": weights, "loraplus_lr_ratio": None}
        numbers, train = {"dtype": "bfloat16"}, {"save_steps": 2}
        where = tmp_path / folder
        return tree(tiny_llama, alpaca_file, where, model=numbers, method="full", optim=keys, train=train)

    luthier.train(recipe("whole"))
    stop_before(3, recipe("stopped"))
    luthier.train(recipe("stopped"), resume=True)
    assert bits(tmp_path / "whole") == bits(tmp_path / "stopped")


@pytest.mark.parametrize("name", SPELT)
def test_without_the_package_nothing_begins(name, monkeypatch, tiny_llama, tmp_path):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    recipe = tree(tiny_llama, tmp_path / "no-such-rows.jsonl", tmp_path / "run", optim={"optim": name})
    assert load_recipe(recipe).fingerprint, "reading it needs no package"
    for start in (preview, luthier.train):
        with pytest.raises(MissingExtra, match=f"optim.optim: {name}: .*pip install 'luthier\\[bnb\\]'"):
            start(recipe)
    assert not (tmp_path / "run" / "recipe.yaml").exists()
