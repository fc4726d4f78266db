# SPDX-License-Identifier: Apache-2.0
"""Matrices in few bits: their numbers, what keeps them in few bits, and products that equal those of dense ones."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.quantized import NF4, eight_bits, four_bits
from torch import nn

from luthier.kernels import native
from luthier.kernels.lowrank import LowRank, lowrank_linear, lowrank_linears
from luthier.kernels.lowrank_many import Part, many_lowrank_linear
from luthier.kernels.quantized import Blocks, Quantized, plain_blocks, plain_rows, theirs_blocks

TYPES = [torch.float32, torch.bfloat16]
SHAPES = [(3, 64), (33, 17), (5, 96), (4, 128), (1, 1), (7, 2)]


def blocks(rows: int, columns: int, nested: bool, seed: int = 0) -> Blocks:
    """Codes and scales drawn at random."""
    draw, count = torch.Generator().manual_seed(seed), rows * columns
    many = math.ceil(count / 64)
    more, absmax = {}, torch.rand(many, generator=draw) + 0.01
    if nested:
        absmax = torch.randint(0, 256, (many,), generator=draw).to(torch.uint8)
        outer = torch.rand(math.ceil(many / 256), generator=draw)
        more = {"levels": torch.linspace(-1, 1, 256), "outer": outer, "offset": 1.37}
    codes = torch.randint(0, 256, (math.ceil(count / 2),), generator=draw).to(torch.uint8)
    return Blocks(shape=(rows, columns), codes=codes, table=torch.tensor(NF4), block=64, absmax=absmax, **more)


def by_hand(store: Blocks) -> torch.Tensor:
    """One number after the other, in float64."""
    found = []
    for i in range(store.shape[0] * store.shape[1]):
        byte, place = int(store.codes[i // 2]), i // store.block
        scale = float(store.absmax[place])
        if store.levels is not None:
            scale = float(store.levels[int(scale)]) * float(store.outer[place // store.group]) + store.offset
        found.append(NF4[byte >> 4 if i % 2 == 0 else byte & 15] * scale)
    return torch.tensor(found, dtype=torch.float64).view(store.shape)


@pytest.mark.parity
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 9))
def test_four_bits_are_what_the_formula_says(shape, seed, dtype, nested):
    store = blocks(*shape, nested, seed)
    got = store.dense(dtype)
    assert got.shape == shape
    wanted = by_hand(store)
    torch.testing.assert_close(got.double(), wanted, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-7)
    assert torch.equal(got, plain_blocks(store, dtype)), "the C++ loops give the same bits"


def test_large_four_bits_have_the_same_bits_by_both_ways(monkeypatch):
    store = blocks(300, 520, nested=True)  # 2438 blocks, ten scales of scales
    assert torch.equal(store.dense(torch.bfloat16), plain_blocks(store, torch.bfloat16))
    torch.set_num_threads(2)
    try:
        assert torch.equal(store.dense(torch.bfloat16), plain_blocks(store, torch.bfloat16)), "whatever the threads"
    finally:
        torch.set_num_threads(1)
    monkeypatch.setattr(native, "usable", lambda *_: False)
    assert torch.equal(store.dense(torch.float32), plain_blocks(store, torch.float32))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_eight_bits(shape, dtype):
    weight = torch.randn(shape)
    store = eight_bits(weight)
    got = store.dense(dtype)
    assert torch.equal(got, plain_rows(store, dtype))
    wanted = store.codes.double() * store.absmax.double()[:, None] / 127
    torch.testing.assert_close(got.double(), wanted, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-7)
    assert (got.double() - weight.double()).abs().max() <= store.absmax.max() / 127


def test_other_types_are_dense_by_the_plain_form():
    assert blocks(5, 6, False).dense(torch.float64).dtype == torch.float64
    assert eight_bits(torch.randn(5, 6)).dense(torch.float16).dtype == torch.float16


@pytest.mark.parametrize("dtype", TYPES)
def test_products_equal_those_of_the_dense_matrix_and_keep_the_codes_alone(dtype):
    matrix = Quantized(four_bits(torch.randn(48, 32)), dtype)
    kept: list[torch.Tensor] = []

    def look(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    found = []
    for weight in (matrix, matrix.dense()):
        x = torch.linspace(-1, 1, 5 * 32).view(5, 32).to(dtype).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
            y = F.linear(x, weight)
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))
        if weight is matrix:
            dense = [t for t in kept if not isinstance(t, Quantized) and t.shape in ((48, 32), (32, 48))]
            assert not dense, "a dense copy would live from the forward to the backward pass"
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("low", [False, True])
def test_the_low_rank_linear_takes_them(dtype, low):
    stores = [four_bits(torch.randn(48, 32)), eight_bits(torch.randn(16, 32))]
    found = []
    for dense in (False, True):
        torch.manual_seed(1)
        weights = [Quantized(store, dtype).dense() if dense else Quantized(store, dtype) for store in stores]
        x = torch.randn(2, 7, 32).to(dtype).requires_grad_()
        pairs = [(torch.randn(4, 32), torch.randn(len(w), 4)) for w in weights]
        parts = [LowRank(w, None, a.requires_grad_(), b.requires_grad_(), 0.5) for w, (a, b) in zip(weights, pairs)]  # noqa: B905
        outs = list(lowrank_linears(x, parts)) if not low else [lowrank_linear(x, *part, x * 2) for part in parts]
        trained = [x, *(tensor for pair in pairs for tensor in pair)]
        found.append([*outs, *torch.autograd.grad(sum(out.square().sum() for out in outs), trained)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_several_adapters_share_one():
    matrix, found = Quantized(four_bits(torch.randn(48, 32)), torch.float32), []
    x, a, b = torch.randn(6, 32), torch.randn(3, 32), torch.randn(48, 3)
    for weight in (matrix, matrix.dense()):
        x.requires_grad_()
        y = many_lowrank_linear(x, weight, None, [Part(start=1, stop=4, a=a, b=b, scaling=2.0)])
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_moved_cast_copied_and_turned_it_stays_in_few_bits():
    linear = nn.Linear(32, 48, bias=False)
    store = four_bits(linear.weight)
    linear.weight = nn.Parameter(Quantized(store, torch.float32), requires_grad=False)
    model = nn.Sequential(linear).to(torch.bfloat16).to("cpu")
    assert isinstance(model[0].weight, nn.Parameter)
    assert isinstance(model[0].weight, Quantized)
    assert model[0].weight.dtype == torch.bfloat16
    assert model[0].weight.store is store
    assert not model[0].weight.requires_grad
    other = copy.deepcopy(model)
    assert other[0].weight is not model[0].weight
    assert other[0].weight.store is store
    for turned in (linear.weight.T, linear.weight.t(), linear.weight.transpose(0, 1), linear.weight.permute(1, 0)):
        assert isinstance(turned, Quantized)
        assert turned.shape == (32, 48)
        assert torch.equal(turned.T.dense(), linear.weight.dense())
    assert linear.weight.numel() == 48 * 32
    assert linear.weight.stored_bytes() == 48 * 16 + 4 * 24 + 4 * 16


def test_nothing_writes_to_it():
    matrix = Quantized(four_bits(torch.randn(48, 32)), torch.float32)
    for write in (matrix.add_, matrix.copy_, lambda x: torch.add(x, 1, out=matrix)):
        with pytest.raises(RuntimeError, match="cannot be written to"):
            write(torch.ones(48, 32))
    with pytest.raises(NotImplementedError, match="cannot be compiled"):
        matrix.__tensor_flatten__()
    assert type(matrix + 1) is torch.Tensor
    assert repr(matrix) == "Quantized(Blocks, (48, 32), torch.float32)"


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_makes_the_same_of_its_codes(kind, nested, dtype):
    functional = pytest.importorskip("bitsandbytes.functional")
    # Columns are a multiple of the block: of others, bitsandbytes 0.50 on CPUs takes the wrong scales.
    codes, state = functional.quantize_4bit(torch.randn(96, 128), quant_type=kind, compress_statistics=nested)
    more = {}
    if nested:
        more = {"levels": state.state2.code, "outer": state.state2.absmax, "offset": float(state.offset)}
    store = Blocks(
        shape=(96, 128), codes=codes.flatten(), table=state.code, block=state.blocksize, absmax=state.absmax, **more
    )
    state.dtype = dtype
    assert torch.equal(store.dense(dtype), functional.dequantize_4bit(codes, state))
    assert torch.equal(store.dense(dtype), theirs_blocks(replace(store, kind=kind), dtype)), "the way of GPUs"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["", "nf4"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_gpu_reads_the_same_numbers(kind, nested):
    if kind:
        pytest.importorskip("bitsandbytes")
    store = replace(blocks(96, 128, nested), kind=kind)
    for dtype in TYPES:
        there = store.to(torch.device("cuda")).dense(dtype).cpu()
        torch.testing.assert_close(
            there, store.dense(dtype), rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-7
        )
    rows = eight_bits(torch.randn(48, 32))
    torch.testing.assert_close(rows.to(torch.device("cuda")).dense(torch.float32).cpu(), rows.dense(torch.float32))
