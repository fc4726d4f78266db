# SPDX-License-Identifier: Apache-2.0
"""The low-rank linear equals its formula, forward and backward, and leaves the frozen weight alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.kernels.lowrank import lowrank_linear, plain_lowrank_linear


def _case(
    lead: tuple[int, ...],
    *,
    bias: bool,
    low: bool,
    transposed: bool = False,
    inputs: int = 4,
    outputs: int = 5,
    rank: int = 2,
) -> list[torch.Tensor | None]:
    """x, weight, bias, A, B, low; all but the weight train."""

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, dtype=torch.float64, requires_grad=True)

    weight = (
        torch.randn(inputs, outputs, dtype=torch.float64).T if transposed else torch.randn(outputs, inputs).double()
    )
    b, low_input = random(outputs) if bias else None, random(*lead, inputs) if low else None
    return [random(*lead, inputs), weight, b, random(rank, inputs), random(outputs, rank), low_input]


@given(
    lead=st.sampled_from([(3,), (2, 3), (1, 1), (0,), (2, 0), (2, 1, 3)]),
    bias=st.booleans(),
    low=st.booleans(),
    transposed=st.booleans(),
    rank=st.integers(1, 4),
)
def test_equals_plain_with_its_gradients(
    lead: tuple[int, ...], bias: bool, low: bool, transposed: bool, rank: int
) -> None:
    x, weight, b, lora_a, lora_b, low_input = _case(lead, bias=bias, low=low, transposed=transposed, rank=rank)
    got = lowrank_linear(x, weight, b, lora_a, lora_b, 0.7, low_input)
    wanted = plain_lowrank_linear(x, weight, b, lora_a, lora_b, 0.7, low_input)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
    trained = [one for one in (x, b, lora_a, lora_b, low_input) if one is not None]
    above = torch.randn_like(wanted)
    pairs = zip(torch.autograd.grad(got, trained, above), torch.autograd.grad(wanted, trained, above), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradcheck(bias: bool, low: bool, transposed: bool) -> None:
    x, weight, b, lora_a, lora_b, low_input = _case((2, 3), bias=bias, low=low, transposed=transposed)
    inputs = [one for one in (x, lora_a, lora_b, b, low_input) if one is not None]

    def function(*given: torch.Tensor) -> torch.Tensor:
        rest = list(given[3:])
        return lowrank_linear(
            given[0], weight, rest.pop(0) if bias else None, given[1], given[2], 0.7, rest.pop(0) if low else None
        )

    assert torch.autograd.gradcheck(function, inputs)


def test_the_frozen_weight_gets_no_gradient_even_if_it_asks() -> None:
    x, weight, _, lora_a, lora_b, _ = _case((3,), bias=False, low=False)
    weight.requires_grad_()
    lowrank_linear(x, weight, None, lora_a, lora_b, 0.7).sum().backward()
    assert weight.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("first", [False, True])
def test_nothing_but_x_and_s_is_kept(first: bool) -> None:
    """In the first layer x needs no gradient; x and s = x A^T are kept all the same, for A and B."""
    x, weight, b, lora_a, lora_b, _ = _case((6,), bias=True, low=False)
    x.requires_grad_(not first)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        lowrank_linear(x, weight, b, lora_a, lora_b, 0.7)
    parameters = {weight.data_ptr(), lora_a.data_ptr(), lora_b.data_ptr()}
    assert sorted(tuple(t.shape) for t in kept if t.data_ptr() not in parameters) == [(6, 2), (6, 4)]


def test_bfloat16_base_with_a_float32_adapter() -> None:
    x, weight, b, lora_a, lora_b, _ = _case((64,), bias=True, low=False, inputs=32, outputs=24, rank=4)
    exact = plain_lowrank_linear(x, weight, b, lora_a, lora_b, 0.7)
    narrow = [t.detach().bfloat16().requires_grad_(t is not weight) for t in (x, weight, b)]
    wide = [t.detach().float().requires_grad_() for t in (lora_a, lora_b)]
    got = lowrank_linear(*narrow, *wide, 0.7)
    assert got.dtype == torch.bfloat16
    assert (got.double() - exact).norm() / exact.norm() < 0.01
    above = torch.randn_like(exact)
    trained = [narrow[0], narrow[2], *wide]
    grads = torch.autograd.grad(got, trained, above.bfloat16())
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for one, other in zip(grads, torch.autograd.grad(exact, [x, b, lora_a, lora_b], above), strict=True):
        assert (one.double() - other).norm() / other.norm() < 0.01
