# SPDX-License-Identifier: Apache-2.0
"""Forest attention equals the masked softmax that it stands for, forward and backward, on trees of any shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.kernels.forests import forests, grow

from luthier.kernels.attention import forest_attention, padded_attention, plain_attention, visible
from luthier.kernels.cpu_attention import cpu_attention
from luthier.kernels.forest import Forest

# What models ask for: Gemma 2's caps, gpt-oss's sinks, latent attention's smaller value heads, shared key heads.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"sliding_window": 2},
    "long window": {"sliding_window": 100},
    "soft cap": {"softcap": 1.5},
    "soft cap and window": {"softcap": 1.5, "sliding_window": 3},
    "sinks": {"sinks": 4},
    "sinks and window": {"sinks": 4, "sliding_window": 2},
    "both ways": {"causal": False},
    "both ways in a window": {"causal": False, "sliding_window": 2},
    "both ways and soft cap": {"causal": False, "softcap": 1.5, "sliding_window": 3},
}


def _inputs(
    forest: Forest, *, values: int = 4, keys: int = 2, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(forest.num_tokens)
    sizes = [(4, forest.num_tokens, 4), (keys, forest.num_tokens, 4), (keys, forest.num_tokens, values)]
    return [torch.randn(*size, generator=random, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


def _options(name: str) -> dict[str, Any]:
    options = dict(OPTIONS[name])
    if "sinks" in options:
        options["sinks"] = torch.linspace(-1, 1, options["sinks"], dtype=torch.float64, requires_grad=True)
    return options


def _plain(inputs: list[torch.Tensor], forest: Forest, options: dict[str, Any]) -> torch.Tensor:
    rest = {key: value for key, value in options.items() if key not in ("sliding_window", "causal")}
    mask = visible(forest, options.get("sliding_window"), options.get("causal", True))
    return plain_attention(*inputs, mask, scaling=0.4, **rest)


@given(
    forest=forests(),
    name=st.sampled_from(sorted(OPTIONS)),
    keys=st.sampled_from([1, 2, 4]),
    values=st.sampled_from([4, 3]),
)
def test_equals_plain_with_its_gradients(forest: Forest, name: str, keys: int, values: int) -> None:
    options = _options(name)
    inputs = _inputs(forest, keys=keys, values=values)
    got, wanted = forest_attention(*inputs, forest, scaling=0.4, **options), _plain(inputs, forest, options)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
    trained = [*inputs, *([options["sinks"]] if "sinks" in options else [])]
    above = torch.randn_like(wanted)
    pairs = zip(torch.autograd.grad(got, trained, above), torch.autograd.grad(wanted, trained, above), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=3)
@given(forest=forests(most_trees=2, most_segments=3))
def test_gradcheck(name: str, forest: Forest) -> None:
    options = _options(name)
    assert torch.autograd.gradcheck(
        lambda *inputs: forest_attention(*inputs, forest, scaling=0.4, **options), _inputs(forest, values=2)
    )


@given(forest=forests(), window=st.one_of(st.none(), st.integers(1, 6)))
def test_the_blockwise_form_takes_any_tree(forest: Forest, window: int | None) -> None:
    inputs = _inputs(forest)
    got = cpu_attention(*inputs, forest, scaling=0.4, window=window)
    torch.testing.assert_close(got, _plain(inputs, forest, {"sliding_window": window}), atol=1e-12, rtol=0)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(got.sum(), inputs))


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), causal=st.booleans())
def test_the_padded_form_takes_any_roots(lengths: list[int], causal: bool) -> None:
    forest = grow(*(((length,), (-1,)) for length in lengths))
    inputs = _inputs(forest)
    got = padded_attention(*inputs, forest, scaling=0.4, causal=causal, dropout=0.0)
    wanted = _plain(inputs, forest, {"causal": causal})
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
    above = torch.randn_like(wanted)
    pairs = zip(torch.autograd.grad(got, inputs, above), torch.autograd.grad(wanted, inputs, above), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", OPTIONS)
def test_bfloat16_stays_near_float64(name: str) -> None:
    forest = grow(((9, 5, 7, 3), (-1, 0, 0, 1)), ((4,), (-1,)))
    options = _options(name)
    wanted = _plain(_inputs(forest), forest, options)
    got = forest_attention(*_inputs(forest, dtype=torch.bfloat16), forest, scaling=0.4, **options)
    assert got.dtype == torch.bfloat16
    # 8 bits of mantissa: inputs and weights round by 2^-9 each; values are of the order of 1.
    torch.testing.assert_close(got.double(), wanted, atol=0.03, rtol=0.03)


def test_no_token_feels_another_branch() -> None:
    forest = grow(((4, 3, 5), (-1, 0, 0)), ((2,), (-1,)))
    query, key, value = _inputs(forest)
    out = forest_attention(query, key, value, forest, scaling=0.4)
    for segment, seen in ((0, [0]), (1, [0, 1]), (2, [0, 2]), (3, [3])):
        start, end = forest.starts[segment], forest.starts[segment + 1]
        (grad,) = torch.autograd.grad(out[:, start:end].sum(), value, retain_graph=True)
        felt = {
            forest_segment
            for forest_segment, a in enumerate(forest.starts[:-1])
            if grad[:, a : forest.starts[forest_segment + 1]].abs().sum() > 0
        }
        assert felt == set(seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(dtype: torch.dtype) -> None:
    forest = grow(((64,), (-1,)))
    query = torch.zeros(4, 64, 4, dtype=dtype)
    value = torch.ones(2, 64, 4, dtype=dtype)
    out = forest_attention(query, value, value, forest, scaling=1.0, dropout=0.5)
    assert out[:, :1].unique().tolist() in ([0.0, 2.0], [0.0], [2.0])  # one visible token: kept doubled, or dropped
    assert float(out[:, 32:].float().mean()) == pytest.approx(1.0, abs=0.1)
    same = forest_attention(query, value, value, forest, scaling=1.0, dropout=0.0)
    torch.testing.assert_close(same, torch.ones_like(same))
