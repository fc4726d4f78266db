# SPDX-License-Identifier: Apache-2.0
"""GaLore with subspaces in few bits, found less often where they stay: against the published code in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from luthier.core.trainable import ParameterGroup
from luthier.engine.optim import build_optimizer, set_learning_rate
from luthier.methods import _few_bits, galore
from luthier.recipe import Optim

RANK, GAP, STEPS = 4, 2, 60


def rounded(basis, bits):
    """What a basis is after it was kept in few bits: each group of 256 numbers by itself."""
    flat, out = basis.reshape(-1), []
    for start in range(0, len(flat), 256):
        group = flat[start : start + 256]
        group = np.append(group, 0.0)  # one sign alone, which the published code would cut, reaches to 0
        scale = max(group.max() - group.min(), 1e-5) / (2**bits - 1)
        zero = np.clip(-np.round(group.min() / scale), 0, 2**bits - 1)
        out.append(scale * (np.clip(np.round(group / scale) + zero, 0, 2**bits - 1) - zero)[:-1])
    return np.concatenate(out).reshape(basis.shape)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(64, 16), (37, 9), (1, 3), (1, 1)])
def test_numbers_in_few_bits(bits, shape):
    basis = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = _few_bits.encode(basis, bits)
    found = _few_bits.decode(kept, shape, bits)
    assert np.abs(found.numpy() - rounded(basis.numpy(), bits)).max() < 1e-15
    widest = float(basis.max().clamp_min(0) - basis.min().clamp_max(0)) / (2**bits - 1)
    assert float((found - basis).abs().max()) <= widest * (1 + 1e-9), "half a step, and half of one for the zero"
    single = _few_bits.encode(basis.float(), bits)
    assert sum(value.nbytes for value in single.values()) == _few_bits.kept_bytes(basis.numel(), bits)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_the_published_algorithm(shape):
    """AdamW in a subspace of 4 bits; its gap doubles once five neighbours agree, and is kept otherwise."""
    wide, draw = shape[0] < shape[1], np.random.default_rng(0)
    steady = np.outer(draw.normal(size=shape[0]), draw.normal(size=shape[1]))
    parameter = torch.nn.Parameter(torch.from_numpy(draw.normal(size=shape)))
    wanted = parameter.detach().numpy().copy()
    config = galore.Config(rank=RANK, update_proj_gap=GAP, projection="svd", proj_bits=4, cos_threshold=0.4)
    transform = galore.Subspace(config=config, matrix=shape, seed=5, place=0)
    groups = (ParameterGroup(parameters={"w": parameter}),)
    words = {"groups": groups, "transforms": {"w": transform}, "parameters": lambda: {"w": parameter}}
    optimizer = build_optimizer(Optim(), SimpleNamespace(**words), {"w": parameter})
    gap, past, queue, first, second, when = GAP, None, [], 0.0, 0.0, []
    for number in range(STEPS):
        g = draw.normal(size=shape) + (3.0 * steady if number >= 12 else 0.0)  # at first nothing stays what it is
        if number % gap == 0:
            left, _, right = torch.linalg.svd(torch.from_numpy(g), full_matrices=False)
            basis = (left[:, :RANK] if wide else right[:RANK]).numpy()
            vector = basis[:, 0] if wide else basis[0]
            if past is not None:
                queue = [*queue, past @ vector / np.linalg.norm(past) / np.linalg.norm(vector)][-5:]
                gap *= 2 if len(queue) == 5 and sum(queue) / 5 >= 0.4 else 1
            past, basis = vector, rounded(basis, 4)
            when.append(number)
        small = basis.T @ g if wide else g @ basis.T
        first, second = 0.9 * first + 0.1 * small, 0.999 * second + 0.001 * small**2
        update = first / (1 - 0.9 ** (number + 1)) / (np.sqrt(second / (1 - 0.999 ** (number + 1))) + 1e-8)
        wanted = wanted - 0.01 * 0.25 * (basis @ update if wide else update @ basis)
        parameter.grad = torch.from_numpy(g)
        set_learning_rate(optimizer, 0.01)
        optimizer.step()
    assert np.abs(parameter.detach().numpy() - wanted).max() < 1e-10
    assert when[:6] == [0, 2, 4, 6, 8, 10]
    assert gap > GAP
    assert optimizer.state[parameter]["transform.gap"] == gap
    kept = {key: value for key, value in optimizer.state[parameter].items() if key.startswith("transform.")}
    small = sum(value.nbytes for value in kept.values() if isinstance(value, torch.Tensor))
    assert small == transform.state_bytes + 4 * (1 + min(shape) + galore.QUEUE), "scales and vectors are 64 bits here"
