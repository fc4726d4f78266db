# SPDX-License-Identifier: Apache-2.0
"""The CUDA path, but for its kernel: a plain function with torch's signature stands in for it."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.kernels.forests import forests, grow

from luthier.kernels import varlen
from luthier.kernels.attention import forest_attention, plain_attention, visible
from luthier.kernels.forest import Forest
from luthier.kernels.varlen import fits, key_layout, varlen_attention, varlen_available


def plain_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """torch.nn.attention.varlen.varlen_attn as its documentation and flash attention's have it.

    [T, H, D] and [G, K, D]; sequence i has queries cu_seq_q[i] to cu_seq_q[i + 1] and keys likewise. Masks are
    bottom-right: the last query stands at the last key; a query sees `left` keys before its own and `right` after
    it, -1 for all. Lengths are int32, as the kernel demands.
    """
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q[0] == cu_seq_k[0] == 0
    assert len(query) == cu_seq_q[-1]
    assert len(key) == len(value) == cu_seq_k[-1]
    assert int(cu_seq_q.diff().max()) == max_q
    assert int(cu_seq_k.diff().max()) == max_k
    assert enable_gqa or query.shape[1] == key.shape[1]
    left, right = window_size
    parts = []
    for i in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[i] : cu_seq_q[i + 1]].transpose(0, 1)
        k, v = (x[cu_seq_k[i] : cu_seq_k[i + 1]].transpose(0, 1) for x in (key, value))
        place = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
        distance = place - torch.arange(k.shape[1])[None]
        mask = ((distance <= left) | (left < 0)) & ((-distance <= right) | (right < 0))
        parts.append(plain_attention(q, k, v, mask, scaling=q.shape[-1] ** -0.5 if scale is None else scale))
    return torch.cat(parts, 1).transpose(0, 1)


def _inputs(forest: Forest, keys: int) -> list[torch.Tensor]:
    sizes = [(4, forest.num_tokens, 8), (keys, forest.num_tokens, 8), (keys, forest.num_tokens, 8)]
    return [torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in sizes]


@given(
    forest=forests(),
    keys=st.sampled_from([1, 2, 4]),
    window=st.one_of(st.none(), st.integers(1, 6)),
    causal=st.booleans(),
)
def test_equals_plain_with_its_gradients(forest: Forest, keys: int, window: int | None, causal: bool) -> None:
    inputs = _inputs(forest, keys)
    words = {"scaling": 0.3, "sliding_window": window, "causal": causal, "kernel": plain_varlen}
    got = varlen_attention(*inputs, forest, **words)
    wanted = plain_attention(*inputs, visible(forest, window, causal), scaling=0.3)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
    above = torch.randn_like(wanted)
    pairs = zip(torch.autograd.grad(got, inputs, above), torch.autograd.grad(wanted, inputs, above), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


def test_the_stand_in_has_torchs_signature() -> None:
    """Names, order and defaults of what we pass; what torch has besides stays at its default."""
    torch_varlen = pytest.importorskip("torch.nn.attention.varlen")
    theirs = inspect.signature(torch_varlen.varlen_attn).parameters
    if not {"scale", "window_size", "enable_gqa"} <= set(theirs):
        assert varlen._kernel() is None
        pytest.skip("this torch's kernel lacks windows, grouped queries or a scale: the fallback runs")
    assert varlen._kernel() is torch_varlen.varlen_attn
    ours = inspect.signature(plain_varlen).parameters
    shared = [name for name in theirs if name in ours]
    assert shared == list(ours)
    assert all((theirs[name].kind, theirs[name].default) == (ours[name].kind, ours[name].default) for name in ours)


def test_flat_forests_gather_nothing() -> None:
    forest = grow(((3,), (-1,)), ((5,), (-1,)))
    assert key_layout(forest.starts, forest.parents) == (None, [0, 3, 8])


def test_children_see_their_ancestors_first() -> None:
    forest = grow(((3, 2, 2, 1), (-1, 0, 0, 2)))
    gathered, ends = key_layout(forest.starts, forest.parents)
    assert ends == [0, 3, 8, 13, 19]
    assert gathered == [*range(3), *range(5), *range(3), 5, 6, *range(3), 5, 6, 7]


@pytest.mark.parametrize(
    ("sizes", "allowed"),
    [((64, 64), True), ((256, 256), True), ((192, 128), False), ((512, 512), False), ((20, 20), False)],
)
def test_heads_that_flash_attention_has(sizes: tuple[int, int], allowed: bool) -> None:
    assert fits(*sizes) is allowed


def test_no_kernel_on_a_cpu() -> None:
    assert not varlen_available(torch.zeros(2, 3, 8, dtype=torch.bfloat16))


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 5])
def test_on_a_gpu(window: int | None, causal: bool) -> None:
    forest = grow(((70, 33, 20, 9), (-1, 0, 0, 1)), ((40,), (-1,)))
    wide = [torch.randn(heads, forest.num_tokens, 64, dtype=torch.float64) for heads in (8, 2, 2)]
    above = torch.randn(8, forest.num_tokens, 64, dtype=torch.float64)
    narrow = [x.to("cuda", torch.bfloat16).requires_grad_() for x in wide]
    assert varlen_available(narrow[0], narrow[2])
    got = forest_attention(*narrow, forest.to("cuda"), scaling=0.125, sliding_window=window, causal=causal)
    exact = [x.clone().requires_grad_() for x in wide]
    wanted = plain_attention(*exact, visible(forest, window, causal), scaling=0.125)
    torch.testing.assert_close(got.cpu().double(), wanted, atol=0.03, rtol=0.03)
    pairs = zip(torch.autograd.grad(got, narrow, above.to(got)), torch.autograd.grad(wanted, exact, above), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one.cpu().double(), other, atol=0.1, rtol=0.05)
