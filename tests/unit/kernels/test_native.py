# SPDX-License-Identifier: Apache-2.0
"""The C++ loops equal the float64 formulas; they are built once, and what prevents that is said."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.kernels.forests import forests, grow

from luthier.kernels import native
from luthier.kernels.attention import forest_attention, plain_attention, visible
from luthier.kernels.forest import Forest
from luthier.kernels.logprob import linear_logprob, plain_logprob
from luthier.kernels.native import build
from luthier.kernels.native_attention import native_attention
from luthier.kernels.norm import plain_rms_norm, rms_norm
from luthier.kernels.swiglu import plain_swiglu, swiglu

needs_compiler = pytest.mark.skipif(native.describe().startswith("off"), reason=f"native loops: {native.describe()}")
DTYPES = [torch.float32, torch.bfloat16]
# Largest error over the result's largest number: bfloat16 rounds inputs of a product and the result by 2^-9 each.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.2e-2}


def _random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(dtype).requires_grad_()


def _near(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    assert got.shape == wanted.shape
    scale = max(float(wanted.detach().abs().max()), 1.0) if wanted.numel() else 1.0
    assert float((got.double() - wanted).detach().abs().max()) <= tolerance * scale if wanted.numel() else True


def _compare(fast: Any, plain: Any, inputs: tuple[torch.Tensor, ...], dtype: torch.dtype, looser: float = 1.0) -> None:
    """Results and gradients against the formula in float64 on the same (rounded) inputs."""
    wide = tuple(x.detach().double().requires_grad_() for x in inputs)
    got, wanted = fast(*inputs), plain(*wide)
    _near(got, wanted, looser * TOLERANCE[dtype])
    above = torch.randn(wanted.shape, dtype=torch.float64).to(got.dtype)
    pairs = zip(torch.autograd.grad(got, inputs, above), torch.autograd.grad(wanted, wide, above.double()), strict=True)
    for one, other in pairs:
        assert one.dtype == dtype
        _near(one, other, 2 * looser * TOLERANCE[dtype])


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 15, 16, 17, 100])
def test_rows_equal_float64(dtype: torch.dtype, width: int) -> None:
    assert native.usable(_random(2, dtype=dtype))
    x, weight = _random(2, 300, width, dtype=dtype), _random(width, dtype=dtype)
    _compare(lambda a, b: rms_norm(a, b, 1e-3), lambda a, b: plain_rms_norm(a, b, 1e-3), (x, weight), dtype)
    _compare(swiglu, plain_swiglu, (_random(9, width, dtype=dtype), _random(9, width, dtype=dtype)), dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("words", [1, 16, 35, 700])
def test_log_probabilities_equal_float64(dtype: torch.dtype, words: int) -> None:
    hidden, head, target = _random(40, 8, dtype=dtype), _random(words, 8, dtype=dtype), torch.arange(40) % words
    _compare(
        lambda h, w: linear_logprob([(h, w)], None, target), lambda h, w: plain_logprob([(h, w)], None, target),
        (hidden, head), dtype,
    )  # fmt: skip


@needs_compiler
def test_log_probabilities_keep_float32_in_bfloat16() -> None:
    logits = (torch.randn(6, 1000) * 20).bfloat16()
    one = torch.ones(1000, 1000).diag().diag().bfloat16()
    got = linear_logprob([(logits, one)], None, torch.arange(6))
    wanted = torch.log_softmax(logits.double(), -1)[:, :6].diagonal()
    torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-6)


@needs_compiler
@given(
    forest=forests(), keys=st.sampled_from([1, 2, 4]), window=st.one_of(st.none(), st.integers(1, 6)),
    dtype=st.sampled_from(DTYPES), causal=st.booleans(),
)  # fmt: skip
def test_attention_takes_any_tree(
    forest: Forest, keys: int, window: int | None, dtype: torch.dtype, causal: bool
) -> None:
    _attend(forest, (4, keys, 5, 3), window, dtype, causal)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 37, 150])
@pytest.mark.parametrize("sizes", [(6, 6, 64, 64), (8, 2, 40, 80), (2, 1, 128, 96)])
def test_attention_over_blocks_and_panels(
    sizes: tuple[int, int, int, int], window: int | None, dtype: torch.dtype
) -> None:
    forest = grow(((130, 70, 1, 55), (-1, 0, 0, 1)), ((23,), (-1,)), ((200,), (-1,)))
    for causal in (True, False):
        _attend(forest, sizes, window, dtype, causal)


@needs_compiler
@pytest.mark.parametrize("causal", [True, False])
def test_dropout_is_one_mask_forward_and_backward(causal: bool) -> None:
    forest = grow(((70, 40), (-1, 0)), ((23,), (-1,)))
    inputs = tuple(_random(2, forest.num_tokens, 16) for _ in range(2))
    ones = torch.eye(forest.num_tokens).expand(2, -1, -1)  # values that show the weights themselves
    torch.manual_seed(5)
    kept = native_attention(*inputs, ones.contiguous(), forest, 0.3, None, causal=causal, dropout=0.3)
    mask = visible(forest, None, causal)
    share = float((kept[:, mask] == 0).float().mean())
    assert share == pytest.approx(0.3, abs=0.02)
    assert len({float((head[mask] == 0).float().mean()) for head in kept}) == 2, "each head draws its own"
    stays = (kept != 0).double() / 0.7
    value = _random(2, forest.num_tokens, 16)

    def fast(*x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return native_attention(*x, forest, 0.3, None, causal=causal, dropout=0.3)

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = (q @ k.transpose(1, 2) * 0.3).masked_fill(~mask, float("-inf"))
        return (torch.softmax(scores, -1) * stays) @ v

    _compare(fast, plain, (*inputs, value), torch.float32, looser=2)


def _attend(
    forest: Forest, sizes: tuple[int, int, int, int], window: int | None, dtype: torch.dtype, causal: bool
) -> None:
    heads, keys, width, value_width = sizes
    tokens = forest.num_tokens
    shapes = (tokens, heads, width), (tokens, keys, width), (tokens, keys, value_width)
    query, key, value = (_random(*shape, dtype=dtype).detach().transpose(0, 1).requires_grad_() for shape in shapes)
    _compare(
        lambda *x: native_attention(*x, forest, 0.3, window, causal=causal),
        lambda *x: plain_attention(*x, visible(forest, window, causal), scaling=0.3),
        (query, key, value.detach().contiguous().requires_grad_()), dtype,
    )  # fmt: skip


@needs_compiler
def test_attention_of_large_scores_and_of_inputs_that_lie_anyhow() -> None:
    forest = grow(((50,), (-1,)))
    query, key, value = (_random(2, 8, 50).detach().mul_(7).transpose(1, 2).requires_grad_() for _ in range(3))
    _compare(
        lambda *x: forest_attention(*x, forest, scaling=1.0),
        lambda *x: plain_attention(*x, visible(forest), scaling=1.0),
        (query, key, value), torch.float32, looser=100,
    )  # fmt: skip # scores of about 400 carry an error of 2e-5 into their exponentials


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_comes_out_as_a_nan(dtype: torch.dtype) -> None:
    x = torch.ones(2, 20, dtype=dtype)
    x[1, 18] = float("nan")
    ones = torch.ones(20, dtype=dtype)
    assert rms_norm(x, ones, 1e-6).isnan().any(-1).tolist() == [False, True]
    assert swiglu(x, torch.ones_like(x)).isnan().any(-1).tolist() == [False, True]
    logps = linear_logprob([(x, torch.ones(30, 20, dtype=dtype))], None, torch.tensor([3, 4]))
    assert logps.isnan().tolist() == [False, True]
    states = torch.ones(1, 20, 4, dtype=dtype)
    states[0, 18] = float("nan")
    out = native_attention(states, states, states, grow(((20,), (-1,))), 1.0, None)
    assert out[:, 18:].isnan().any(-1).all()  # earlier ones may be: a hidden weight of 0 times NaN is NaN, as in torch


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    forest = grow(((200, 90), (-1, 0)), ((300,), (-1,)))
    inputs = [_random(4, forest.num_tokens, 32, dtype=dtype) for _ in range(3)]
    x, weight = _random(2000, 256, dtype=dtype), _random(256, dtype=dtype)

    def everything() -> list[torch.Tensor]:
        out = native_attention(*inputs, forest, 0.2, None)
        normed = swiglu(rms_norm(x, weight, 1e-6), x)
        logps = linear_logprob([(x, x[:500])], None, torch.arange(2000) % 500)
        total = out.float().square().sum() + normed.float().square().sum() + logps.sum()
        return [out, normed, logps, *torch.autograd.grad(total, [*inputs, x, weight])]

    before = torch.get_num_threads()
    alone = everything()
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(alone, everything(), strict=True))
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_makes_threads_of_its_own() -> None:
    x = torch.randn(2000, 256)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        swiglu(x, x)
        child = os.fork()
        if not child:
            swiglu(x, x)
            os._exit(0)
        for _ in range(200):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.05)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert done, "the child waits for threads that it does not have"
        assert status == 0
    finally:
        torch.set_num_threads(before)


def test_other_numbers_and_places_are_left_to_torch() -> None:
    assert not native.usable(torch.ones(2, dtype=torch.float64))
    assert not native.usable(torch.ones(2), torch.ones(2, dtype=torch.bfloat16))
    assert not native.usable(torch.ones(2, device="meta"))


@needs_compiler
def test_built_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    assert build.load()[0] is not None
    (built,) = (tmp_path / "native").glob("*.so")
    before = built.stat().st_mtime_ns
    assert build.load()[0] is not None
    assert built.stat().st_mtime_ns == before


@needs_compiler
def test_a_half_written_library_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    build.load()
    other = tmp_path / "other"
    (other / "native").mkdir(parents=True)
    for built in (tmp_path / "native").iterdir():  # copied: cutting what is loaded would kill this process
        (other / "native" / built.name).write_bytes(built.read_bytes()[: 1000 if built.suffix == ".so" else None])
    monkeypatch.setenv("LUTHIER_HOME", str(other))
    assert build.load()[0] is not None


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    library, why = build.load()
    assert library is None
    assert "no C++ compiler found" in why


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands for the compiler")
def test_a_failing_compiler_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "c++-broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit\necho "no such thing" >&2\nexit 1\n')
    broken.chmod(broken.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    library, why = build.load()
    assert library is None
    assert "no such thing" in why
    assert not list((tmp_path / "home" / "native").iterdir())
