# SPDX-License-Identifier: Apache-2.0
"""Checkpoints hold every bit of every optimiser, and are whole or not there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from luthier.core.errors import RunFailed
from luthier.core.trainable import ParameterGroup
from luthier.engine import checkpoint
from luthier.engine.checkpoint import Saved, find_checkpoints, load_checkpoint, newest_whole, prune, save_checkpoint
from luthier.engine.optim import build_optimizer
from luthier.recipe import Optim

NOTHING = Saved(progress={}, random={}, about={})


def made(optim):
    torch.manual_seed(0)
    parameters = {
        "layer.weight": torch.nn.Parameter(torch.randn(4, 6)),
        "norm.weight": torch.nn.Parameter(torch.randn(6)),
        "late.weight": torch.nn.Parameter(torch.randn(3, 3)),
    }
    trainable = SimpleNamespace(groups=(ParameterGroup(parameters=parameters),), transforms={})
    return parameters, build_optimizer(optim, trainable, parameters)


def step(parameters, optimizer, number):
    draw = torch.Generator().manual_seed(number)
    for name, parameter in parameters.items():
        if name != "late.weight" or number > 3:  # one has no state when the checkpoint is written
            parameter.grad = torch.randn(parameter.shape, generator=draw)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    "optim",
    [Optim(), Optim(optim="sgd"), Optim(optim="sgd", momentum=0.9), Optim(optim="adafactor"), Optim(optim="lion")],
    ids=lambda optim: f"{optim.optim} {optim.momentum}",
)
def test_every_optimiser_goes_on_to_the_bit(tmp_path, optim):
    parameters, optimizer = made(optim)
    for number in (1, 2, 3):
        step(parameters, optimizer, number)
    saved = Saved(progress={"loss": 0.1 + 0.2, "best": 5e-324}, random={}, about={"torch": "x"})
    path = save_checkpoint(tmp_path, 3, parameters, optimizer, saved)
    for number in (4, 5):
        step(parameters, optimizer, number)

    again, fresh = made(optim)
    with torch.no_grad():
        for parameter in again.values():
            parameter.zero_()
    step(again, fresh, 9)  # whatever the optimiser holds is replaced
    assert load_checkpoint(path, again, fresh) == saved
    for number in (4, 5):
        step(again, fresh, number)
    assert all(torch.equal(parameters[name], again[name]) for name in parameters)


def test_loaded_states_are_not_views_of_the_file(tmp_path):
    """A later checkpoint may replace the file under a mapped tensor."""
    parameters, optimizer = made(Optim())
    step(parameters, optimizer, 1)
    path = save_checkpoint(tmp_path, 1, parameters, optimizer, NOTHING)
    load_checkpoint(path, parameters, optimizer)
    state = optimizer.state[parameters["layer.weight"]]["exp_avg"]
    before = state.clone()
    content = (path / "optimizer.safetensors").read_bytes()
    with (path / "optimizer.safetensors").open("r+b") as file:
        file.write(bytes(len(content)))
    assert torch.equal(state, before)


def test_random_state():
    torch.manual_seed(3)
    torch.rand(5)
    state = checkpoint.random_state()
    wanted = torch.rand(100), torch.nn.functional.dropout(torch.ones(100))
    torch.manual_seed(9)
    checkpoint.set_random_state(state)
    assert torch.equal(torch.rand(100), wanted[0])
    assert torch.equal(torch.nn.functional.dropout(torch.ones(100)), wanted[1])


def test_other_parameters_are_refused(tmp_path):
    parameters, optimizer = made(Optim())
    path = save_checkpoint(tmp_path, 1, parameters, optimizer, NOTHING)
    fewer = {name: p for name, p in parameters.items() if name != "norm.weight"}
    with pytest.raises(RunFailed, match=r"other parameters than this recipe trains \(norm.weight ...\)"):
        load_checkpoint(path, fewer, optimizer)
    larger = parameters | {"norm.weight": torch.nn.Parameter(torch.zeros(7))}
    with pytest.raises(RunFailed, match=r"\(norm.weight ...\)"):
        load_checkpoint(path, larger, optimizer)


@pytest.mark.parametrize(
    ("there", "step", "keep", "best", "left"),
    [
        ([2, 4, 6], 6, 2, 0, [4, 6]),
        ([2, 4, 6], 6, 1, 2, [2, 6]),
        ([2, 4, 6, 10], 6, 1, 0, [6, 10]),  # 10 is broken, or the run would not have gone on from 6
        ([9, 10, 11], 11, 2, 0, [10, 11]),  # by number, not by name
        ([3], 3, 5, 0, [3]),
    ],
)
def test_prune(tmp_path, there, step, keep, best, left):
    for number in there:
        (tmp_path / f"step-{number}").mkdir()
    prune(tmp_path, step, keep, best)
    assert [checkpoint.step_of(path) for path in find_checkpoints(tmp_path)] == left


def test_other_folders_are_no_checkpoints(tmp_path):
    for name in ("step-x", "step-", ".writing-3-7", "notes"):
        (tmp_path / name).mkdir()
    assert find_checkpoints(tmp_path) == []
    assert newest_whole(tmp_path) is None
    assert newest_whole(tmp_path / "not there") is None
    checkpoint.sweep(tmp_path)
    assert not (tmp_path / ".writing-3-7").exists()
    assert (tmp_path / "notes").exists()


def test_no_pickle(tmp_path):
    parameters, optimizer = made(Optim())
    step(parameters, optimizer, 1)
    path = save_checkpoint(tmp_path, 1, parameters, optimizer, NOTHING)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
