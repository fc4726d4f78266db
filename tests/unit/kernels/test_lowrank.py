# SPDX-License-Identifier: Apache-2.0
"""The low-rank linear equals its formula, forward and backward, and leaves the frozen weight alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.kernels import native, native_lowrank
from luthier.kernels.lowrank import LowRank, lowrank_linear, lowrank_linears, plain_lowrank_linear


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


@pytest.mark.parametrize("low", [False, True])
def test_where_no_a_trains_x_is_not_kept(low: bool) -> None:
    x, weight, b, lora_a, lora_b, low_input = _case((3,), bias=True, low=low)
    frozen, kept = lora_a.detach(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        got = lowrank_linear(x, weight, b, frozen, lora_b, 0.7, low_input)
    assert not {tuple(tensor.shape) for tensor in kept} & {(3, 4)}
    assert (3, 2) in {tuple(tensor.shape) for tensor in kept}  # s
    wanted = plain_lowrank_linear(x, weight, b, frozen, lora_b, 0.7, low_input)
    trained = [one for one in (x, b, lora_b, low_input) if one is not None]
    pairs = zip(torch.autograd.grad(got.sum(), trained), torch.autograd.grad(wanted.sum(), trained), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


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
    parameters = {tensor.data_ptr() for tensor in (weight, b, lora_a, lora_b)}
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


def _parts(
    sizes: list[tuple[int, int]], inputs: int, base: torch.dtype, *, bias: bool = False
) -> tuple[list[LowRank], list[torch.Tensor]]:
    """Linears of these (outputs, rank) on one input, and what trains in them."""
    made = []
    for i, (outputs, rank) in enumerate(sizes):
        weight, b = torch.randn(outputs, inputs, dtype=base), torch.randn(outputs, dtype=base) if bias else None
        wide = torch.promote_types(base, torch.float32)
        low = torch.randn(rank, inputs, dtype=wide) / inputs**0.5, torch.randn(outputs, rank, dtype=wide)
        made.append(LowRank(weight, b, *low, 0.5 + i))
    trained = [t.requires_grad_() for part in made for t in (part.bias, part.lora_a, part.lora_b) if t is not None]
    return made, trained


def _against_float64(parts: list[LowRank], trained: list[torch.Tensor], x: torch.Tensor, tolerance: float) -> None:
    """Outputs and gradients of linears on one input, relative to those of the formula one by one."""
    got = lowrank_linears(x, parts)
    wide = {id(t): t.detach().double().requires_grad_() for t in (x, *trained)}
    exact = [
        plain_lowrank_linear(
            wide[id(x)], part.weight.double(), None if part.bias is None else wide[id(part.bias)],
            wide[id(part.lora_a)], wide[id(part.lora_b)], part.scaling,
        )
        for part in parts
    ]  # fmt: skip
    above = [torch.randn(y.shape, dtype=torch.float64).to(x.dtype) for y in exact]
    grads = torch.autograd.grad(got, [x, *trained], above)
    wanted = torch.autograd.grad(exact, list(wide.values()), [g.double() for g in above])
    assert [g.dtype for g in grads] == [t.dtype for t in (x, *trained)]
    for one, other in zip((*got, *grads), (*exact, *wanted), strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).norm() <= tolerance * other.norm() + 1e-12


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sizes", [[(5, 2)], [(5, 2), (7, 3)], [(4, 1), (4, 6), (9, 2)]])
@pytest.mark.parametrize("lead", [(3,), (2, 4), (0,)])
def test_linears_of_one_input_equal_each_alone(sizes: list[tuple[int, int]], bias: bool, lead: tuple[int, ...]) -> None:
    parts, trained = _parts(sizes, 6, torch.float64, bias=bias)
    _against_float64(parts, trained, torch.randn(*lead, 6, dtype=torch.float64, requires_grad=True), 1e-12)


needs_pairs = pytest.mark.skipif(
    not native.multiplies_pairs(), reason="no AVX512_BF16 on this processor, or no compiler"
)
NATIVE = [[(48, 16)], [(32, 16), (64, 16), (16, 16)], [(16, 3), (80, 5)], [(144, 32), (16, 1)], [(16, 7)] * 4]


@pytest.mark.parametrize("sizes", [[(5, 2)], [(5, 2), (7, 3)]])
@pytest.mark.parametrize("lead", [(3,), (2, 4)])
def test_outputs_may_be_changed_in_place(sizes: list[tuple[int, int]], lead: tuple[int, ...]) -> None:
    """As models do that clip queries, or add one branch to another."""
    parts, trained = _parts(sizes, 6, torch.float64)
    x = torch.randn(*lead, 6, dtype=torch.float64).requires_grad_()
    found = [y.clamp_(-0.5, 0.5).add_(1.0) for y in lowrank_linears(x, parts)]
    wanted = [plain_lowrank_linear(x, *part).clamp(-0.5, 0.5) + 1.0 for part in parts]
    for some, others in ((found, wanted), (_gradients(found, x, trained), _gradients(wanted, x, trained))):
        for one, other in zip(some, others, strict=True):
            torch.testing.assert_close(one, other)


def _gradients(outputs: list[torch.Tensor], x: torch.Tensor, trained: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(torch.stack([y.square().sum() for y in outputs]).sum(), (x, *trained))


@needs_pairs
@pytest.mark.parametrize("sizes", NATIVE)
@pytest.mark.parametrize("tokens", [1, 97, 300])
def test_the_native_form_equals_float64(sizes: list[tuple[int, int]], tokens: int) -> None:
    parts, trained = _parts(sizes, 80, torch.bfloat16, bias=True)
    x = torch.randn(tokens, 80, dtype=torch.bfloat16).requires_grad_()
    assert native_lowrank.fits(x, [part.lora_a for part in parts], [part.lora_b for part in parts])
    _against_float64(parts, trained, x, 1e-2)  # base product, its rounding, the sum's rounding: 2^-9 each


@needs_pairs
def test_the_native_form_under_dropout() -> None:
    (part,), _ = _parts([(48, 8)], 32, torch.bfloat16)
    x, low = (torch.randn(50, 32, dtype=torch.bfloat16).requires_grad_() for _ in range(2))
    got = torch.autograd.grad(lowrank_linear(x, *part, low).float().sum(), (x, low, part.lora_a))
    wide = [t.detach().double().requires_grad_() for t in (x, low, part.lora_a)]
    exact = plain_lowrank_linear(
        wide[0], part.weight.double(), None, wide[2], part.lora_b.double(), part.scaling, wide[1]
    )
    for one, other in zip(got, torch.autograd.grad(exact.sum(), wide), strict=True):
        assert (one.double() - other).norm() <= 1e-2 * other.norm()


@needs_pairs
def test_threads_change_no_bit_of_the_native_form() -> None:
    parts, trained = _parts([(256, 16), (256, 16)], 256, torch.bfloat16)
    x = torch.randn(3000, 256, dtype=torch.bfloat16).requires_grad_()
    s = torch.randn(3000, 32).bfloat16()
    grads = [torch.randn(3000, 256).bfloat16() for _ in parts]
    lora_a, lora_b = torch.cat([p.lora_a for p in parts]).detach(), [p.lora_b.detach() for p in parts]

    def everything() -> list[torch.Tensor]:
        out, grad_x = [torch.ones(3000, 256).bfloat16() for _ in parts], torch.ones(3000, 256).bfloat16()
        low = native_lowrank.add(x.detach(), out, lora_a, lora_b, [1.0, 2.0])
        grad_a, grad_b = native_lowrank.gradients(x.detach(), s, grads, grad_x, lora_a, lora_b, [1.0, 2.0])
        return [low, *out, grad_x, grad_a, *grad_b]

    assert trained
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything()
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(alone, everything(), strict=True))
    finally:
        torch.set_num_threads(before)


@needs_pairs
def test_what_the_native_form_cannot_take_is_left_to_torch() -> None:
    x, a, b = torch.ones(4, 32).bfloat16(), torch.ones(4, 32), torch.ones(16, 4)
    assert native_lowrank.fits(x, [a], [b])
    assert not native_lowrank.fits(x.float(), [a], [b])
    assert not native_lowrank.fits(x[:0], [a], [b])
    assert not native_lowrank.fits(x, [a.bfloat16()], [b.bfloat16()])
    assert not native_lowrank.fits(x, [torch.ones(33, 32)], [torch.ones(16, 33)])
    assert not native_lowrank.fits(x, [a], [torch.ones(17, 4)])
    assert not native_lowrank.fits(x[:, :20].contiguous(), [a[:, :20]], [b])
