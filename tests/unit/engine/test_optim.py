# SPDX-License-Identifier: Apache-2.0
"""Optimisers against their formulas in float64; clipping against torch; groups, decay and scales."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from luthier.core.trainable import ParameterGroup
from luthier.engine.optim import build_optimizer, clip, set_learning_rate, state_bytes
from luthier.recipe import Optim

STEPS, RATE, DECAY = 5, 0.01, 0.1
SCALE = 16.0  # of the second group, as LoRA+ has for B


@pytest.fixture
def trainable():
    """Two matrices with different learning rates, and a vector."""
    torch.manual_seed(0)
    a, b, bias = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((4, 6), (6, 4), (6,)))
    groups = (
        ParameterGroup(parameters={"a": a, "bias": bias}),
        ParameterGroup(parameters={"b": b}, learning_rate_scale=SCALE),
    )
    return SimpleNamespace(groups=groups, parameters=lambda: {"a": a, "bias": bias, "b": b}, transforms={})


def gradients():
    draw = torch.Generator().manual_seed(1)
    shapes = {"a": (4, 6), "bias": (6,), "b": (6, 4)}
    return [{name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()} for _ in range(STEPS)]


def trained(trainable, optim):
    twins = trainable.parameters()
    optimizer = build_optimizer(optim, trainable, twins)
    for step, given in enumerate(gradients()):
        for name, twin in twins.items():
            twin.grad = given[name].clone()
        set_learning_rate(optimizer, RATE * (step + 1))
        optimizer.step()
        optimizer.zero_grad()
    return {name: twin.detach() for name, twin in twins.items()}


def by_formula(trainable, rule, decoupled=True):
    """Walk the same steps in float64; `rule(parameter, gradient, state, step from 1, rate)` gives the new parameter."""
    found = {}
    for name, parameter in trainable.parameters().items():
        value, state = parameter.detach().double().clone(), {}
        decay = DECAY if value.ndim > 1 and decoupled else 0.0
        for step, given in enumerate(gradients(), 1):
            rate = RATE * step * (SCALE if name == "b" else 1.0)
            value = rule(value * (1 - rate * decay), given[name].double(), state, step, rate)
        found[name] = value
    return found


def adamw(value, gradient, state, step, rate):
    """Loshchilov & Hutter, arXiv 1711.05101, algorithm 2."""
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * gradient
    state["v"] = 0.95 * state.get("v", 0) + 0.05 * gradient**2
    m, v = state["m"] / (1 - 0.9**step), state["v"] / (1 - 0.95**step)
    return value - rate * m / (v.sqrt() + 1e-6)


def adafactor(value, gradient, state, step, rate):
    """Shazeer & Stern, arXiv 1804.04235, algorithm 4 with a given step size."""
    beta = 1 - step**-0.8
    square = gradient**2 + 1e-30
    if value.ndim > 1:
        state["r"] = beta * state.get("r", 0) + (1 - beta) * square.mean(-1)
        state["c"] = beta * state.get("c", 0) + (1 - beta) * square.mean(-2)
        second = state["r"][:, None] * state["c"][None] / state["r"].mean()
    else:
        state["v"] = beta * state.get("v", 0) + (1 - beta) * square
        second = state["v"]
    update = gradient / second.sqrt()
    return value - rate * update / max(1.0, float(update.pow(2).mean().sqrt()))


def lion(beta2):
    """Chen et al., arXiv 2302.06675, algorithm 2."""

    def rule(value, gradient, state, _, rate):
        c = 0.9 * state.get("m", 0) + 0.1 * gradient
        state["m"] = beta2 * state.get("m", 0) + (1 - beta2) * gradient
        return value - rate * c.sign()

    return rule


def same(found, wanted):
    return max(float((found[name] - wanted[name]).abs().max()) for name in wanted)


@pytest.mark.parametrize("name", ["adamw", "adamw_torch", "adamw_torch_fused"])
def test_adamw(trainable, name):
    wanted = by_formula(trainable, adamw)
    optim = Optim(optim=name, weight_decay=DECAY, adam_beta2=0.95, adam_epsilon=1e-6)
    assert same(trained(trainable, optim), wanted) < 2e-6


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd(trainable, momentum):
    """torch adds SGD's decay to the gradient, so momentum sees it too."""

    def sgd(value, gradient, state, _, rate):
        state["m"] = momentum * state.get("m", 0) + gradient + (DECAY * value if value.ndim > 1 else 0)
        return value - rate * state["m"]

    wanted = by_formula(trainable, sgd, decoupled=False)
    assert same(trained(trainable, Optim(optim="sgd", momentum=momentum, weight_decay=DECAY)), wanted) < 2e-6


def test_adafactor(trainable):
    wanted = by_formula(trainable, adafactor)
    assert same(trained(trainable, Optim(optim="adafactor", weight_decay=DECAY)), wanted) < 2e-6


@pytest.mark.parametrize(("name", "given", "beta2"), [("lion", None, 0.99), ("lion_32bit", 0.98, 0.98)])
def test_lion(trainable, name, given, beta2):
    wanted = by_formula(trainable, lion(beta2))
    assert same(trained(trainable, Optim(optim=name, adam_beta2=given, weight_decay=DECAY)), wanted) < 2e-6


def test_every_entry_says_what_it_keeps(trainable):
    """Bytes of the float32 states of 10,000 numbers, against what is counted."""
    weight = torch.nn.Parameter(torch.zeros(100, 100))
    one = SimpleNamespace(groups=(ParameterGroup(parameters={"w": weight}),), transforms={})
    for name, momentum in [("adamw", 0.0), ("sgd", 0.0), ("sgd", 0.9), ("adafactor", 0.0), ("lion", 0.0)]:
        optim = Optim(optim=name, momentum=momentum)
        optimizer = build_optimizer(optim, one, {"w": weight})
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        held = sum(v.nbytes for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor))
        assert abs(held - state_bytes(optim) * 10_000) < 1000, name


def test_vectors_do_not_decay(trainable):
    groups = build_optimizer(Optim(weight_decay=DECAY), trainable, trainable.parameters()).param_groups
    told = {(tuple(p.shape), g["weight_decay"], g["lr_scale"]) for g in groups for p in g["params"]}
    assert told == {((4, 6), DECAY, 1.0), ((6,), 0.0, 1.0), ((6, 4), DECAY, SCALE)}


@pytest.mark.parametrize("most", [0.5, 1.0, 1e9])
def test_clip(most):
    torch.manual_seed(0)
    twins = {name: torch.nn.Parameter(torch.zeros(size)) for name, size in (("a", 50), ("b", 70), ("c", 3))}
    for name in ("a", "b"):  # c has no gradient
        twins[name].grad = torch.randn_like(twins[name])
    copies = [torch.nn.Parameter(torch.zeros_like(p)) for p in twins.values()]
    for copy, twin in zip(copies, twins.values(), strict=True):
        copy.grad = None if twin.grad is None else twin.grad.clone()
    wanted = torch.nn.utils.clip_grad_norm_(copies, most)
    assert clip(twins, most) == float(wanted)
    for copy, twin in zip(copies[:2], twins.values(), strict=False):
        assert torch.equal(copy.grad, twin.grad)


def test_clip_of_zero_only_measures():
    twin = torch.nn.Parameter(torch.zeros(4))
    twin.grad = torch.full((4,), 3.0)
    assert clip({"a": twin, "tied to a": twin}, 0.0) == 6.0  # once, although it has two names
    assert twin.grad.tolist() == [3.0] * 4


def test_nothing_to_clip():
    assert clip({"a": torch.nn.Parameter(torch.zeros(2))}, 1.0) == 0.0
    assert not math.isnan(clip({}, 1.0))
