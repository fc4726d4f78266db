# SPDX-License-Identifier: Apache-2.0
"""GPTQ's blocks and Cholesky factors equal the paper's plain algorithm in float64, and beat rounding to the nearest."""

from __future__ import annotations

import pytest
import torch

from luthier.core.errors import RunFailed
from luthier.export.gptq import Codes, Rounding, cost, fit, gptq, nearest


def problem(n: int = 6, k: int = 24, tokens: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix, and the covariance of inputs that go together."""
    x = torch.randn(tokens, k, dtype=torch.float64) @ torch.randn(k, k, dtype=torch.float64)
    return torch.randn(n, k, dtype=torch.float64), x.T @ x / tokens


def obq(weight: torch.Tensor, hessian: torch.Tensor, how: Rounding) -> torch.Tensor:
    """Frantar et al., section 3: round a weight, correct all others by H^-1, take its row and column out of H^-1."""
    w, h = weight.clone(), hessian.clone()
    order = h.diagonal().argsort(descending=True, stable=True) if how.desc_act else torch.arange(len(h))
    fixed = [fit(part, how) for part in weight.split(how.group_size, 1)]
    h += how.damp_percent * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    inverse = torch.linalg.inv(h)
    found = torch.empty_like(w)
    for step, column in enumerate(order.tolist()):
        if how.static_groups:
            scale, zero = fixed[column // how.group_size]
        elif step % how.group_size == 0:
            scale, zero = fit(w[:, order[step : step + how.group_size]], how)
        code = (w[:, column] / scale + zero).round().clamp(0, 2**how.bits - 1)
        found[:, column] = (code - zero) * scale
        error = (w[:, column] - found[:, column]) / inverse[column, column]
        later = order[step + 1 :]
        w[:, later] -= error[:, None] * inverse[column, later]
        inverse = inverse - torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return found


HOW = [
    Rounding(group_size=24),
    Rounding(group_size=8),
    Rounding(group_size=8, bits=8),
    Rounding(group_size=8, sym=False),
    Rounding(group_size=8, desc_act=True),
    Rounding(group_size=12, desc_act=True, sym=False),
    Rounding(group_size=8, desc_act=True, static_groups=True),
    Rounding(group_size=24, damp_percent=0.2),
]


@pytest.mark.parity
@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("block", [1, 5, 8, 128])
def test_it_is_the_papers_algorithm(how, block):
    weight, hessian = problem()
    assert torch.allclose(gptq(weight, hessian, how, block).dense().double(), obq(weight, hessian, how), atol=1e-6)


@pytest.mark.parametrize("how", HOW, ids=str)
def test_it_beats_rounding_to_the_nearest(how):
    weight, hessian = problem(32, 24, 200)
    assert cost(weight, gptq(weight, hessian, how), hessian) < 0.7 * cost(weight, nearest(weight, how), hessian)


def test_cost_is_the_change_of_the_outputs():
    weight, x = torch.randn(5, 8), torch.randn(40, 8)
    codes = nearest(weight, Rounding(group_size=4))
    change = (x @ (weight - codes.dense()).T).square().sum(1).mean()
    assert cost(weight, codes, (x.T @ x / 40).double()) == pytest.approx(float(change), rel=1e-5)


@pytest.mark.parametrize("sym", [True, False])
def test_numbers_are_reached(sym):
    """Codes and zeros fit their bits, and no number is farther from its code than half a step (but at the rim)."""
    weight, how = torch.randn(7, 32), Rounding(group_size=16, sym=sym)
    codes = nearest(weight, how)
    assert int(codes.codes.max()) <= 15
    assert int(codes.zeros.min()) >= 1
    assert int(codes.zeros.max()) <= 15
    assert torch.equal(codes.scales, codes.scales.half().float())
    steps = ((codes.dense() - weight).abs() / codes.scales[:, codes.groups]).max()
    assert steps <= (0.51 if not sym else 1.01)


def test_dead_inputs_and_zeros():
    weight, hessian = problem()
    hessian[3], hessian[:, 3] = 0.0, 0.0
    weight[2] = 0.0
    dense = gptq(weight, hessian, Rounding(group_size=8)).dense()
    assert torch.equal(dense[:, 3], torch.zeros(6))
    assert torch.equal(dense[2], torch.zeros(24))


def test_a_singular_covariance_is_dampened_or_refused():
    weight = torch.randn(4, 8, dtype=torch.float64)
    row = torch.randn(1, 8, dtype=torch.float64)
    assert isinstance(gptq(weight, row.T @ row, Rounding(group_size=8)), Codes)
    with pytest.raises(RunFailed, match="more varied calibration rows"):
        gptq(weight, torch.full((8, 8), torch.nan, dtype=torch.float64), Rounding(group_size=8))
