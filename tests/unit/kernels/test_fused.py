# SPDX-License-Identifier: Apache-2.0
"""The fused elementwise kernels and the blockwise attention equal their plain twins, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from luthier.core.types import Segment, Tree
from luthier.kernels.attention import plain_attention, visible
from luthier.kernels.cpu_attention import BLOCK, cpu_attention
from luthier.kernels.forest import Forest, plant
from luthier.kernels.norm import plain_rms_norm, rms_norm
from luthier.kernels.swiglu import plain_swiglu, swiglu


def _random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_()


def test_rms_norm_gradcheck() -> None:
    x, weight = _random(3, 5), _random(5)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, weight))


def test_swiglu_gradcheck() -> None:
    assert torch.autograd.gradcheck(swiglu, (_random(3, 5), _random(3, 5)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_fused_equal_plain(dtype: torch.dtype) -> None:
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    x, weight, above = _random(7, 16, dtype=dtype), _random(16, dtype=dtype), torch.randn(7, 16).to(dtype)
    for fast, plain, inputs in (
        (lambda: rms_norm(x, weight, 1e-6), lambda: plain_rms_norm(x, weight, 1e-6), (x, weight)),
        (lambda: swiglu(x, weight), lambda: plain_swiglu(x, weight.expand(7, 16)), (x,)),
    ):
        got, wanted = fast(), plain()
        torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)
        got_grads, wanted_grads = torch.autograd.grad(got, inputs, above), torch.autograd.grad(wanted, inputs, above)
        for one, other in zip(got_grads, wanted_grads, strict=True):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def _forest(lengths: tuple[int, ...], parents: tuple[int, ...]) -> Forest:
    segments = tuple(Segment(ids=np.arange(n, dtype=np.int32), scored=np.ones(n, np.bool_)) for n in lengths)
    return plant([Tree(segments=segments, parents=parents), Tree(segments=segments[:1])])


@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize(
    ("lengths", "parents"),
    [((5,), (-1,)), ((BLOCK + 3, 7, 4), (-1, 0, 0)), ((9, BLOCK, 2 * BLOCK + 1, 3), (-1, 0, 1, 1))],
)
def test_cpu_attention_equals_plain(lengths: tuple[int, ...], parents: tuple[int, ...], window: int | None) -> None:
    forest = _forest(lengths, parents)
    query, key, value = (
        _random(4, forest.num_tokens, 8),
        _random(2, forest.num_tokens, 8),
        _random(2, forest.num_tokens, 6),
    )
    above = torch.randn(4, forest.num_tokens, 6, dtype=torch.float64)
    got = cpu_attention(query, key, value, forest, scaling=0.3, window=window)
    wanted = plain_attention(query, key, value, visible(forest, window), scaling=0.3)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-12)
    pairs = zip(
        torch.autograd.grad(got, (query, key, value), above),
        torch.autograd.grad(wanted, (query, key, value), above),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-11)


def test_cpu_attention_gradcheck() -> None:
    forest = _forest((4, 3, 2), (-1, 0, 0))
    inputs = tuple(_random(2, forest.num_tokens, 3) for _ in range(3))
    assert torch.autograd.gradcheck(lambda q, k, v: cpu_attention(q, k, v, forest, scaling=0.5), inputs)


def test_bfloat16_is_no_worse_than_torch() -> None:
    """Against float64, the blockwise form errs no more than torch's own bfloat16 kernel does."""
    forest = _forest((150, 20), (-1, 0))
    wide = [torch.randn(4, forest.num_tokens, 16, dtype=torch.float64) for _ in range(3)]
    exact = plain_attention(*wide, visible(forest), scaling=0.25)
    narrow = [x.bfloat16() for x in wide]
    ours = (cpu_attention(*narrow, forest, scaling=0.25).double() - exact).abs().mean()
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *[x[None] for x in narrow], attn_mask=visible(forest), scale=0.25
    )[0]
    assert ours <= 1.5 * (theirs.double() - exact).abs().mean()
