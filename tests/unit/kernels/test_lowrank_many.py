# SPDX-License-Identifier: Apache-2.0
"""One linear under many adapters equals its formula and each adapter's own linear, and no adapter reaches another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.kernels.lowrank import lowrank_linear
from luthier.kernels.lowrank_many import Part, many_lowrank_linear, plain_many_lowrank_linear

INPUTS, OUTPUTS = 5, 6


def random(*size: int) -> torch.Tensor:
    return torch.randn(*size, dtype=torch.float64, requires_grad=True)


def parts_of(lengths: list[int], kinds: list[str]) -> list[Part]:
    """Neighbouring slices; a kind is a rank and what is besides: `2`, `3 noise`, `0 bias`, `1 noise bias`."""
    found, start = [], 0
    for place, (length, kind) in enumerate(zip(lengths, kinds, strict=True)):
        rank, stop = int(kind[0]), start + length
        a, b = (random(rank, INPUTS), random(OUTPUTS, rank)) if rank else (None, None)
        noise = (torch.rand(length, INPUTS).double() > 0.5).double() * 2 if "noise" in kind else None
        bias = random(OUTPUTS) if "bias" in kind else None
        found.append(Part(start=start, stop=stop, a=a, b=b, scaling=0.5 + place, noise=noise, bias=bias))
        start = stop
    return found


def trained(parts: list[Part]) -> list[torch.Tensor]:
    return [tensor for part in parts for tensor in (part.a, part.b, part.bias) if tensor is not None]


KINDS = st.sampled_from(["1", "2", "4", "3 noise", "0", "0 bias", "2 bias", "1 noise bias"])


@given(slices=st.lists(st.tuples(st.integers(0, 4), KINDS), min_size=1, max_size=5), bias=st.booleans())
def test_equals_plain_with_its_gradients(slices: list[tuple[int, str]], bias: bool) -> None:
    lengths, kinds = [length for length, _ in slices], [kind for _, kind in slices]
    rest = 2  # tokens that no adapter owns
    x, weight = random(1, sum(lengths) + rest, INPUTS), torch.randn(OUTPUTS, INPUTS, dtype=torch.float64)
    common = torch.randn(OUTPUTS, dtype=torch.float64) if bias else None
    parts = parts_of(lengths, kinds)
    got = many_lowrank_linear(x, weight, common, parts)
    wanted = plain_many_lowrank_linear(x, weight, common, parts)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
    above = torch.randn_like(wanted)
    leaves = [x, *trained(parts)]
    one = torch.autograd.grad(got, leaves, above, allow_unused=True, materialize_grads=True)
    other = torch.autograd.grad(wanted, leaves, above, allow_unused=True, materialize_grads=True)
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=0)


def test_gradcheck():
    kinds = ["2", "3 noise", "0 bias", "1 noise bias"]
    x, weight = random(1, 9, INPUTS), torch.randn(INPUTS, OUTPUTS, dtype=torch.float64).T
    parts = parts_of([3, 2, 2, 2], kinds)
    leaves = trained(parts)

    def run(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        left, again = list(given), []
        for part in parts:
            own = {key: left.pop(0) if getattr(part, key) is not None else None for key in ("a", "b", "bias")}
            again.append(
                Part(start=part.start, stop=part.stop, scaling=part.scaling, noise=part.noise, **own)  # type: ignore[arg-type]
            )
        return many_lowrank_linear(x, weight, None, again)

    assert torch.autograd.gradcheck(run, (x, *leaves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_adapter_equals_the_linear_of_one(dtype):
    x, weight = torch.randn(7, INPUTS, dtype=dtype), torch.randn(OUTPUTS, INPUTS, dtype=dtype)
    a, b = torch.randn(2, INPUTS), torch.randn(OUTPUTS, 2)
    got = many_lowrank_linear(x, weight, None, [Part(start=0, stop=7, a=a, b=b, scaling=0.7)])
    assert torch.equal(got, lowrank_linear(x, weight, None, a, b, 0.7))


@pytest.mark.parametrize("broken", ["a", "b", "x", "gradient"])
def test_nothing_of_a_broken_adapter_reaches_another(broken):
    parts = parts_of([3, 4, 3], ["2", "2 bias", "3 noise"])
    x, weight = random(1, 10, INPUTS), torch.randn(OUTPUTS, INPUTS, dtype=torch.float64)
    above = torch.randn(1, 10, OUTPUTS, dtype=torch.float64)
    with torch.no_grad():
        if broken in "ab":
            getattr(parts[1], broken)[0, 0] = float("nan")
        (x if broken == "x" else above)[:, 4] = float("nan") if broken in ("x", "gradient") else 1.0
    got = many_lowrank_linear(x, weight, None, parts)
    own = [part for place, part in enumerate(parts) if place != 1]
    found = torch.autograd.grad(got, [x, *trained(own)], above)
    keeping = [*range(3), *range(7, 10)]
    assert torch.isfinite(got[:, keeping]).all()
    assert torch.isfinite(found[0][:, keeping]).all()
    assert all(torch.isfinite(gradient).all() for gradient in found[1:])
    assert not (torch.isfinite(got[:, 3:7]).all() and torch.isfinite(found[0][:, 3:7]).all())


def test_the_output_may_be_changed_in_place():
    x, weight = random(2, 3, 6).requires_grad_(), random(5, 6)
    a, b = random(2, 6).requires_grad_(), random(5, 2).requires_grad_()
    parts = [Part(start=1, stop=5, a=a, b=b, scaling=0.5)]
    found = many_lowrank_linear(x, weight, None, parts).clamp_(-0.5, 0.5)
    wanted = plain_many_lowrank_linear(x, weight, None, parts).clamp(-0.5, 0.5)
    torch.testing.assert_close(found, wanted)
    grads = (torch.autograd.grad(y.square().sum(), (x, a, b)) for y in (found, wanted))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
