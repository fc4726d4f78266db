# SPDX-License-Identifier: Apache-2.0
"""Optimisers over smaller gradients: GaLore and APOLLO against their papers in float64, and what state is kept."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from luthier.core.errors import MissingExtra
from luthier.core.trainable import ParameterGroup
from luthier.engine.checkpoint import Saved, load_checkpoint, save_checkpoint
from luthier.engine.optim import (
    build_optimizer,
    check_optimizer,
    moved_numbers,
    optimizer_bytes,
    set_learning_rate,
    transform_bytes,
)
from luthier.methods import apollo, galore
from luthier.recipe import Optim

SHAPES = {"wide": (12, 20), "tall": (20, 12)}
RANK, GAP, STEPS, DECAY, EPS = 4, 3, 8, 0.1, 1e-8
RATES = [0.0, 0.01, 0.02, 0.03, 0.02, 0.01, 0.02, 0.01]  # a warm-up begins at 0


def made(transform, optim, dtype=torch.float64, shapes=SHAPES):
    """Two matrices with transforms, one without, and a vector, under an optimiser."""
    draw = torch.Generator().manual_seed(0)
    sizes = shapes | {"plain": (6, 5), "bias": (5,)}
    parameters = {n: torch.nn.Parameter(torch.randn(*s, generator=draw, dtype=dtype)) for n, s in sizes.items()}
    transforms = {name: transform(shape, place) for place, (name, shape) in enumerate(shapes.items())}
    groups = (ParameterGroup(parameters=parameters),)
    trainable = SimpleNamespace(
        groups=groups,
        transforms=transforms,
        parameters=lambda: parameters,
        num_trainable=sum(p.numel() for p in parameters.values()),
    )
    return parameters, trainable, build_optimizer(optim, trainable, parameters)


def step(parameters, optimizer, number):
    draw = torch.Generator().manual_seed(100 + number)
    for p in parameters.values():
        p.grad = torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p.dtype)
    set_learning_rate(optimizer, RATES[number])
    optimizer.step()
    given = {name: p.grad.double().numpy().copy() for name, p in parameters.items()}
    optimizer.zero_grad()
    return given


def subspace(**keys):
    config = galore.Config(rank=RANK, update_proj_gap=GAP, **keys)
    return lambda shape, place: galore.Subspace(config=config, matrix=shape, seed=5, place=place)


def scaled(**keys):
    config = apollo.Config(rank=RANK, update_proj_gap=GAP, **keys)
    return lambda shape, place: apollo.Scaled(config=config, matrix=shape, seed=5, place=place)


class Adam:
    """The direction of Adam, with torch's place for epsilon."""

    def __init__(self):
        self.count, self.first, self.second = 0, 0.0, 0.0

    def __call__(self, g):
        self.count += 1
        self.first, self.second = 0.9 * self.first + 0.1 * g, 0.999 * self.second + 0.001 * g * g
        mean, square = self.first / (1 - 0.9**self.count), self.second / (1 - 0.999**self.count)
        return mean / (np.sqrt(square) + EPS)


@pytest.mark.parametrize("moments", ["keep", "reset", "rotate"])
def test_galore_is_algorithm_2(moments):
    """Wide matrices are projected on the left and tall ones on the right; the rest is AdamW."""
    parameters, _, optimizer = made(
        subspace(projection="svd", scale=0.5, moments=moments), Optim(weight_decay=DECAY, adam_epsilon=EPS)
    )
    wanted = {name: p.detach().numpy().copy() for name, p in parameters.items()}
    adam, bases = {name: Adam() for name in wanted}, {}
    for number in range(STEPS):
        for name, g in step(parameters, optimizer, number).items():
            wide, rate = name == "wide", RATES[number]
            up = g if wide else g.T
            if name in SHAPES and number % GAP == 0:
                left, _, right = torch.linalg.svd(torch.from_numpy(g), full_matrices=False)  # signs are LAPACK's
                new = (left[:, :RANK] if wide else right[:RANK].T).numpy()
                if moments == "reset":
                    adam[name] = Adam()
                elif moments == "rotate" and number:
                    turned = new.T @ bases[name]
                    adam[name].first, adam[name].second = turned @ adam[name].first, turned**2 @ adam[name].second
                bases[name] = new
            if name in SHAPES:
                update = 0.5 * bases[name] @ adam[name](bases[name].T @ up)
                update = update if wide else update.T
            else:
                update = adam[name](g)
            wanted[name] = wanted[name] * (1 - rate * (DECAY if g.ndim > 1 else 0)) - rate * update
    for name, p in parameters.items():
        assert np.abs(p.detach().numpy() - wanted[name]).max() < 1e-10, name


@pytest.mark.parametrize("proj_type", ["std", "full"])
def test_signs_of_the_library_do_not_matter(proj_type, monkeypatch):
    def run():
        parameters, _, optimizer = made(subspace(proj_type=proj_type), Optim())
        for number in range(STEPS):
            step(parameters, optimizer, number)
        return parameters

    wanted, finder, calls = run(), galore.by_range_finder, []

    def turned(gradient, rank, generator):
        calls.append(0)
        return finder(gradient, rank, generator) * (-1.0) ** (torch.arange(rank) + len(calls))

    monkeypatch.setattr(galore, "by_range_finder", turned)
    found = run()
    assert len(calls) >= 2 * 3
    assert all((found[name] - wanted[name]).abs().max() < 1e-12 for name in wanted)


@pytest.mark.parametrize(("scale_type", "limited"), [("channel", False), ("channel", True), ("tensor", True)])
def test_apollo_is_algorithm_1(scale_type, limited, monkeypatch):
    drawn = {}

    def draw(rows, rank, like, words):
        drawn.setdefault(words, np.random.default_rng(words).normal(size=(rows, rank)) / np.sqrt(rank))
        return torch.from_numpy(drawn[words])

    monkeypatch.setattr(apollo, "generator_of", lambda device, seed, place, when: (seed, place, when))
    monkeypatch.setattr(apollo, "drawn_at_random", draw)
    keys = {"scale_type": scale_type, "scale": 2.0, "disable_nl": not limited}
    parameters, _, optimizer = made(scaled(**keys), Optim(weight_decay=DECAY, adam_epsilon=EPS))
    wanted = {name: p.detach().numpy().copy() for name, p in parameters.items() if name in SHAPES}
    adam, lengths, cut = {name: Adam() for name in wanted}, {}, 0
    for number in range(STEPS):
        given = step(parameters, optimizer, number)
        for place, name in enumerate(SHAPES):
            g = given[name] if name == "wide" else given[name].T
            small = drawn[5, place, number // GAP].T @ g
            axis = 0 if scale_type == "channel" else None
            update = g * np.linalg.norm(adam[name](small), axis=axis) / np.linalg.norm(small, axis=axis)
            length = np.linalg.norm(update)
            if limited and name in lengths and length > 1.01 * lengths[name]:
                update, length, cut = update * 1.01 * lengths[name] / length, 1.01 * lengths[name], cut + 1
            lengths[name] = length
            update = np.sqrt(2.0) * (update if name == "wide" else update.T)
            wanted[name] = wanted[name] * (1 - RATES[number] * DECAY) - RATES[number] * update
    assert bool(cut) is limited
    for name, value in wanted.items():
        assert np.abs(parameters[name].detach().numpy() - value).max() < 1e-7, name  # 1e-8 beside lengths


KINDS = {
    "galore": subspace(),
    "galore full": subspace(proj_type="full"),
    "galore rotate": subspace(moments="rotate"),
    "galore in 4 bits": subspace(proj_bits=4, cos_threshold=0.0),
    "apollo": scaled(),
    "apollo svd": scaled(proj="svd", scale_type="tensor"),
}
OPTIMIZERS = ["adamw", "lion", "sgd", "adafactor", "adamw_8bit"]


def _optim(name):
    optim = Optim(optim=name, momentum=0.9 if name == "sgd" else 0.0, weight_decay=DECAY)
    try:
        check_optimizer(optim)
    except MissingExtra:
        pytest.skip("bitsandbytes is not installed")
    return optim


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_goes_on_to_the_bit(kind, name, tmp_path):
    """Stopped between two projections; the optimiser that goes on has seen another step before."""
    if "rotate" in kind and name in ("adafactor", "adamw_8bit"):
        pytest.skip("refused by a rule")
    optim = _optim(name)
    parameters, _, optimizer = made(KINDS[kind], optim, torch.float32)
    before = {key: p.detach().clone() for key, p in parameters.items()}
    for number in range(4):
        step(parameters, optimizer, number)
    assert all(not torch.equal(parameters[key], before[key]) for key in parameters)
    path = save_checkpoint(tmp_path, 4, parameters, optimizer, Saved(progress={}, random={}, about={}))
    again, _, fresh = made(KINDS[kind], optim, torch.float32)
    step(again, fresh, 7)
    load_checkpoint(path, again, fresh)
    for number in range(4, STEPS):
        step(parameters, optimizer, number)
        step(again, fresh, number)
    assert all(torch.equal(parameters[key], again[key]) for key in parameters)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_as_large_as_it_is_said_to_be(kind, name):
    """Of GaLore with AdamW: m r + 2 n r numbers in the place of 2 m n."""
    optim, shapes = _optim(name), {"wide": (64, 2048), "tall": (2048, 64)}
    parameters, trainable, optimizer = made(KINDS[kind], optim, torch.float32, shapes)
    step(parameters, optimizer, 1)
    tables = ("qmap1", "qmap2")  # 256 numbers that all of bitsandbytes' states share
    held = sum(
        value.nbytes
        for state in optimizer.state.values()
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and key not in tables
    )
    told = optimizer_bytes(optim, trainable)
    # Adafactor's rows and columns, scales of 8 bits, the step's counter, and 8-bit states of small tensors in 32 bits.
    spare = {"adafactor": 4 * 2 * 2200, "adamw_8bit": told // 16 + 8 * 1200}.get(name, 64)
    assert 0 <= held - told <= spare
    if (kind, name) == ("galore", "adamw"):
        assert told == 4 * 2 * (RANK * 64 + 2 * RANK * 2048) + 8 * 35
        assert told < 0.07 * 8 * sum(p.numel() for p in parameters.values())
    assert len(optimizer.state) == 4, "nothing of the stand-ins stays"


def test_memory_counts_what_the_optimiser_sees():
    _, trainable, _ = made(subspace(), Optim(), torch.float32)
    assert moved_numbers(trainable) == RANK * 20 + 20 * RANK + 35
    assert transform_bytes(trainable) == 4 * 2 * RANK * 12
    assert optimizer_bytes(Optim(), trainable) == 8 * (8 * 20 + 35) + 4 * 2 * RANK * 12


def test_parameters_without_a_gradient_stay():
    """As in training without masters, where parameters move one after another."""
    parameters, _, optimizer = made(subspace(), Optim(weight_decay=DECAY))
    whole, _, other = made(subspace(), Optim(weight_decay=DECAY))
    for number in range(1, 5):
        step(whole, other, number)
        draw = torch.Generator().manual_seed(100 + number)
        given = {name: torch.randn(p.shape, generator=draw, dtype=p.dtype) for name, p in parameters.items()}
        set_learning_rate(optimizer, RATES[number])
        for name, p in parameters.items():
            p.grad = given[name]
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(parameters[name], whole[name]) for name in parameters)
