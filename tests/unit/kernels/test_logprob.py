# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities by chunks equal those by full logits, with all their gradients, wherever the chunks end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.kernels import logprob
from luthier.kernels.logprob import HeadShape, linear_logprob, plain_logprob

SHAPES = {
    "plain": HeadShape(),
    "scaled": HeadShape(scale=0.3),
    "soft cap": HeadShape(softcap=1.5),
    "scaled soft cap": HeadShape(scale=2.0, softcap=1.5),
}


@contextmanager
def chunks_of(rows: int) -> Iterator[None]:
    """Walk so many rows at a time: the real chunks have hundreds."""
    with mock.patch.multiple(logprob, MIN_ROWS=rows, CHUNK_ELEMENTS=1):
        yield


def _case(
    rows: int,
    vocabulary: int = 7,
    hidden: int = 3,
    *,
    rank: int = 0,
    bias: bool = False,
    trains: str = "hidden head bias",
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor | None, torch.Tensor]:
    def random(*size: int, what: str) -> torch.Tensor:
        return torch.randn(*size, dtype=torch.float64).requires_grad_(what in trains)

    terms = [(random(rows, hidden, what="hidden"), random(vocabulary, hidden, what="head"))]
    if rank:
        terms.append((random(rows, rank, what="hidden"), random(vocabulary, rank, what="head")))
    target = torch.randint(0, vocabulary, (rows,))
    return terms, (random(vocabulary, what="bias") if bias else None), target


def _trained(terms: list[tuple[torch.Tensor, torch.Tensor]], bias: torch.Tensor | None) -> list[torch.Tensor]:
    return [x for x in [*(x for pair in terms for x in pair), bias] if x is not None and x.requires_grad]


@settings(max_examples=60)
@given(
    rows=st.integers(0, 9),
    chunk=st.integers(1, 4),
    rank=st.sampled_from([0, 2]),
    bias=st.booleans(),
    shape=st.sampled_from(sorted(SHAPES)),
    trains=st.sampled_from(["hidden", "head", "bias", "hidden head", "hidden head bias"]),
)
def test_equals_plain_with_its_gradients(rows: int, chunk: int, rank: int, bias: bool, shape: str, trains: str) -> None:
    terms, bias_V, target = _case(rows, rank=rank, bias=bias, trains=trains)
    wanted = plain_logprob(terms, bias_V, target, SHAPES[shape])
    with chunks_of(chunk):
        got = linear_logprob(terms, bias_V, target, SHAPES[shape])
        torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
        trained = _trained(terms, bias_V)
        if not trained:
            assert not got.requires_grad
            return
        above = torch.randn_like(wanted)
        got_grads = torch.autograd.grad(got, trained, above)
    for one, other in zip(got_grads, torch.autograd.grad(wanted, trained, above), strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("trains", ["hidden", "hidden head bias"])
def test_gradcheck(shape: str, trains: str) -> None:
    terms, bias, target = _case(5, rank=2, bias=True, trains=trains)
    flat = [x for pair in terms for x in pair]

    def function(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, u: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return linear_logprob([(x, w), (s, u)], b, target, SHAPES[shape])

    with chunks_of(2):
        assert torch.autograd.gradcheck(function, (*flat, bias))


def test_nothing_scored_has_a_gradient_of_nought() -> None:
    terms, bias, target = _case(0, bias=True)
    logps = linear_logprob(terms, bias, target)
    assert logps.shape == (0,)
    for grad in torch.autograd.grad(logps.sum(), _trained(terms, bias)):
        assert not grad.any()


def test_huge_logits_stay_finite() -> None:
    terms = [(torch.tensor([[1e4, -1e4]]).requires_grad_(), torch.eye(2))]
    logps = linear_logprob(terms, None, torch.tensor([1]))
    assert logps.tolist() == [-2e4]
    (grad,) = torch.autograd.grad(logps.sum(), terms[0][0])
    assert grad.tolist() == [[-1.0, 1.0]]


def test_a_frozen_head_keeps_nothing_of_the_vocabularys_size() -> None:
    terms, bias, target = _case(6, vocabulary=50, bias=True, trains="hidden")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        linear_logprob(terms, bias, target)
    assert [tuple(size) for size in kept] == [(6, 3)]


def test_bfloat16_is_no_worse_than_full_logits_in_bfloat16() -> None:
    terms, bias, target = _case(40, vocabulary=300, hidden=64, rank=4, bias=True)
    exact = plain_logprob(terms, bias, target)
    above = torch.randn_like(exact)
    exact_grads = torch.autograd.grad(exact, _trained(terms, bias), above)
    narrow = [tuple(x.detach().bfloat16().requires_grad_() for x in pair) for pair in terms]
    narrow_bias = bias.detach().bfloat16().requires_grad_()
    got = linear_logprob(narrow, narrow_bias, target)
    plain = plain_logprob(narrow, narrow_bias, target)
    assert got.dtype == torch.float32
    assert (got.double() - exact).abs().mean() <= 1.2 * (plain.double() - exact).abs().mean()
    trained = _trained(narrow, narrow_bias)
    assert all(grad.dtype == torch.bfloat16 for grad in torch.autograd.grad(got.sum(), trained, retain_graph=True))
    ours, theirs = (torch.autograd.grad(logps, trained, above.float()) for logps in (got, plain))
    for one, other, wanted in zip(ours, theirs, exact_grads, strict=True):
        error, reference = ((grad.double() - wanted).norm() / wanted.norm() for grad in (one, other))
        assert error <= 1.2 * reference + 2**-9


def test_a_float32_adapter_on_a_bfloat16_head() -> None:
    """The second term may be wider than the first; each keeps its own type in its gradient."""
    terms, _, target = _case(5, rank=2)
    mixed = [tuple(x.detach().bfloat16().requires_grad_() for x in terms[0])]
    mixed.append(tuple(x.detach().float().requires_grad_() for x in terms[1]))
    logps = linear_logprob(mixed, None, target)
    torch.testing.assert_close(logps.double(), plain_logprob(terms, None, target), atol=0.05, rtol=0.02)
    grads = torch.autograd.grad(logps.sum(), _trained(mixed, None))
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
