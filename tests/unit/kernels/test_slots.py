# SPDX-License-Identifier: Apache-2.0
"""Attention over slots equals plain attention of each sequence alone, whatever else is in the pass."""

from __future__ import annotations

import pytest
import torch

from luthier.kernels import native
from luthier.kernels.attention import plain_attention
from luthier.kernels.native_slots import fits, native_slots
from luthier.kernels.slots import Layout, Piece, Score, attend

KEYS, SIZE, SLOTS, CAPACITY = 2, 8, 5, 20
# Slot, tokens before, tokens now: slot 2 is idle; two bring as many to as many; the only single one stands high.
PIECES = [(3, 0, 6), (0, 7, 1), (4, 2, 3), (1, 0, 1)]
CASES = {
    "some": PIECES,
    "alike": [(3, 0, 6), (1, 2, 3), (0, 7, 1), (4, 2, 3), (2, 0, 6)],
    "high": [(0, 1, 2), (4, 5, 1)],
}


def alone(query, keys, values, piece, window, score):
    at = torch.arange(piece.begin, piece.end)
    distance = at[:, None] - torch.arange(piece.end)[None]
    mask = (distance >= 0) & (distance < (window or CAPACITY))
    words = {"scaling": score.scaling, "softcap": score.softcap, "sinks": score.sinks}
    own = [one[piece.slot, :, : piece.end] for one in (keys, values)]
    return plain_attention(query.transpose(0, 1), *own, mask, **words).transpose(0, 1)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kind", ["plain", "softcap", "sinks"])
@pytest.mark.parametrize("groups", [2, 1])
@pytest.mark.parametrize("case", CASES)
def test_equals_each_sequence_alone(case, kind, window, groups):
    heads = KEYS * groups
    pieces = [Piece(slot=slot, begin=begin, ids=[0] * count) for slot, begin, count in CASES[case]]
    layout = Layout(pieces, torch.device("cpu"))
    query = torch.randn(len(layout.input_ids), heads, SIZE, dtype=torch.float64)
    keys, values = (torch.randn(SLOTS, KEYS, CAPACITY, SIZE, dtype=torch.float64) for _ in range(2))
    score = Score(
        0.3, 2.0 if kind == "softcap" else None, torch.randn(heads, dtype=torch.float64) if kind == "sinks" else None
    )
    got = attend(query, keys, values, layout, window, score)
    for start, piece in zip(layout.starts, pieces, strict=True):
        own = slice(start, start + len(piece.ids))
        wanted = alone(query[own], keys, values, piece, window, score)
        torch.testing.assert_close(got[own], wanted, atol=1e-12, rtol=0)


@pytest.mark.skipif(not native.usable(torch.zeros(1)), reason=native.describe())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("window", "size", "groups"), [(None, 8, 2), (3, 24, 1), (None, 72, 3)])
@torch.no_grad()
def test_native_loops_keep_and_attend(dtype, window, size, groups):
    pieces = [Piece(slot=slot, begin=begin, ids=[0] * count) for slot, begin, count in CASES["alike"]]
    layout = Layout(pieces, torch.device("cpu"))
    # As projections give them: heads side by side in a token's row.
    query, key, value = (
        torch.randn(len(layout.input_ids), heads, width).to(dtype).transpose(0, 1)
        for heads, width in ((KEYS * groups, size), (KEYS, size), (KEYS, size + 16))
    )
    keys, values = (torch.randn(SLOTS, KEYS, CAPACITY, width).to(dtype) for width in (size, size + 16))
    wanted_keys, wanted_values = keys.double(), values.double()
    wanted_keys[layout.slots, :, layout.position_ids] = key.double().transpose(0, 1)
    wanted_values[layout.slots, :, layout.position_ids] = value.double().transpose(0, 1)
    wanted = attend(query.double().transpose(0, 1), wanted_keys, wanted_values, layout, window, Score(0.3))
    assert fits(query, key, value, keys, values, layout)
    got = native_slots(query, key, value, keys, values, layout, window, 0.3)
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got.double(), wanted, atol=bound, rtol=bound)
    assert torch.equal(keys.double(), wanted_keys)
    assert torch.equal(values.double(), wanted_values)
    assert layout.seen == sum(place + 1 for place in layout.position_ids.tolist())
    key[0, 0, 0] = float("nan")  # of the first sequence's first token: all of that sequence see it, nobody else
    got = native_slots(query, key, value, keys, values, layout, None, 0.3)
    own = layout.slots == pieces[0].slot
    assert got[own][:, :groups].isnan().all()
    assert not got[~own].isnan().any()


def test_layout():
    pieces = [Piece(slot=2, begin=4, ids=[7]), Piece(slot=0, begin=1, ids=[8, 9])]
    layout = Layout(pieces, torch.device("cpu"))
    assert layout.input_ids.tolist() == [7, 8, 9]
    assert layout.position_ids.tolist() == [4, 1, 2]
    assert layout.slots.tolist() == [2, 0, 0]
    assert layout.ends.tolist() == [0, 2]
    assert (layout.single.tolist(), layout.single_end, layout.single_slots) == ([0], 5, None)
    assert [(alike.begin, alike.tokens.tolist(), alike.slots.tolist()) for alike in layout.alike] == [
        (1, [[1, 2]], [0])
    ]
