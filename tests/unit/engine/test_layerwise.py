# SPDX-License-Identifier: Apache-2.0
"""Updates in the backward pass: the same bits as after it, fewer gradients at a time, and what cannot be done so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.runs import bits, metrics, stop_before, tree

import luthier
from luthier.core.errors import RecipeError, RunFailed
from luthier.core.trainable import ParameterGroup
from luthier.engine.layerwise import Layerwise
from luthier.engine.precision import Masters
from luthier.planning.counts import count
from luthier.recipe import Optim, load_recipe
from luthier.study.memory import state_bytes

METHOD = {"rank": 4, "update_proj_gap": 2}


def recipe(model, rows, folder, name="galore", layerwise=True, dtype="float32", optim=None, **train):
    return tree(
        model,
        rows,
        folder,
        model={"dtype": dtype},
        method=METHOD | {"name": name, "layerwise": layerwise},
        optim={"max_grad_norm": 0.0, "weight_decay": 0.1} | (optim or {}),
        train={"gradient_accumulation_steps": 1, "save_steps": 2} | train,
    )


@pytest.mark.parametrize(
    ("name", "dtype", "optim", "checkpointing"),
    [
        ("galore", "float32", {}, False),
        ("apollo", "float32", {"optim": "lion"}, True),
        ("galore", "bfloat16", {}, True),
        ("apollo", "bfloat16", {"weights": "bfloat16_stochastic"}, False),
    ],
)
def test_the_same_bits_as_updates_at_the_end(name, dtype, optim, checkpointing, tiny_llama, alpaca_file, tmp_path):
    results = {}
    for layerwise in (False, True):
        folder = tmp_path / str(layerwise)
        words = {"name": name, "layerwise": layerwise, "dtype": dtype, "optim": optim}
        given = recipe(tiny_llama, alpaca_file, folder, **words, gradient_checkpointing=checkpointing)
        results[layerwise] = luthier.train(given)
    one, other = bits(tmp_path / "False"), bits(tmp_path / "True")
    assert one.pop("metrics") is not other.pop("metrics")
    assert one == other
    for line, wanted in zip(metrics(tmp_path / "True"), metrics(tmp_path / "False"), strict=True):
        assert line == pytest.approx(wanted, rel=1e-5), "the norm of parts is that of the whole but for rounding"
    trainable = results[True].trainable
    largest = max(p.numel() for p in trainable.parameters().values())
    spared = 4 * (trainable.num_trainable - largest)
    held = [state_bytes(results[layerwise], Optim(**optim)) for layerwise in (False, True)]
    assert held[0] - held[1] == spared
    counted = [4 * count(results[layerwise].trainable).gradients for layerwise in (False, True)]
    assert counted[0] - counted[1] == spared


def test_a_run_stopped_and_resumed_ends_in_the_same_bits(tiny_llama, alpaca_file, tmp_path):
    whole, stopped = (recipe(tiny_llama, alpaca_file, tmp_path / name, dtype="bfloat16") for name in ("a", "b"))
    luthier.train(whole)
    stop_before(3, stopped)
    luthier.train(stopped, resume=True)
    assert bits(tmp_path / "a") == bits(tmp_path / "b")


class Plain:
    """A chain of matrices under SGD, whose gradients are counted when one of them moves."""

    def __init__(self):
        torch.manual_seed(0)
        self.weights = [torch.nn.Parameter(torch.randn(5, 5)) for _ in range(4)]
        named = {str(n): w for n, w in enumerate(self.weights)}
        trainable = SimpleNamespace(groups=(ParameterGroup(parameters=named),), parameters=lambda: named)
        self.held, weights = [], self.weights

        class Counting(torch.optim.SGD):
            def step(self, closure=None):
                held.append(sum(w.grad is not None for w in weights))
                super().step(closure)

        held = self.held
        optimizer = Counting([{"params": self.weights, "lr_scale": 1.0}], lr=0.0)
        self.layerwise = Layerwise(trainable, Masters(trainable), optimizer, SimpleNamespace(world=1))

    def backward(self):
        value = torch.ones(5)
        for weight in self.weights:
            value = weight @ value
        value.sum().backward()


def test_one_gradient_is_there_at_a_time():
    plain = Plain()
    wanted = [w.detach().clone() for w in plain.weights]
    value = torch.ones(5)
    copies = [w.clone().requires_grad_() for w in wanted]
    for weight in copies:
        value = weight @ value
    value.sum().backward()
    plain.layerwise.begin(0, 0.01)
    plain.backward()
    assert plain.held == [1, 1, 1, 1]
    assert all(w.grad is None for w in plain.weights)
    for weight, copy in zip(plain.weights, copies, strict=True):
        assert torch.allclose(weight, copy - 0.01 * copy.grad, atol=1e-6)
    assert plain.layerwise.norm == pytest.approx(float(torch.cat([c.grad.flatten() for c in copies]).norm()))


def test_nothing_moves_behind_a_gradient_that_is_not_finite():
    plain = Plain()
    before = [w.detach().clone() for w in plain.weights]
    plain.layerwise.begin(0, 0.01)
    with torch.no_grad():
        plain.weights[1][0, 0] = float("inf")  # what is before it gets an infinite gradient, what is behind does not
    plain.backward()
    assert not torch.isfinite(torch.tensor(plain.layerwise.norm))
    assert all(w.grad is None for w in plain.weights)
    assert torch.equal(plain.weights[0], before[0])
    plain.layerwise.begin(1, 0.01)
    plain.layerwise.release()
    plain.backward()
    assert all(w.grad is not None for w in plain.weights), "released"


def test_a_run_that_fails_so_keeps_its_checkpoints(tiny_llama, alpaca_file, tmp_path):
    given = recipe(tiny_llama, alpaca_file, tmp_path / "run", optim={"learning_rate": 1e30}, max_steps=6)
    with pytest.raises(RunFailed, match=r"no update was made|is not saved|no longer finite"):
        luthier.train(given)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("section", "keys", "words"),
    [
        ("train", {"gradient_accumulation_steps": 2}, "several micro-batches .*train.gradient_accumulation_steps: 1"),
        ("optim", {"max_grad_norm": 1.0}, "clipping by the norm of the whole gradient.*optim.max_grad_norm: 0"),
    ],
)
def test_what_needs_the_whole_gradient_is_refused(section, keys, words, tmp_path):
    given = recipe(tmp_path, tmp_path, tmp_path / "run")
    assert load_recipe(given).fingerprint
    with pytest.raises(RecipeError, match=f"method.layerwise: {words}"):
        load_recipe(given | {section: given[section] | keys})


def test_several_processes_are_refused():
    with pytest.raises(RecipeError, match=r"method\.layerwise: 2 processes"):
        Layerwise(SimpleNamespace(parameters=dict), SimpleNamespace(), SimpleNamespace(), SimpleNamespace(world=2))
