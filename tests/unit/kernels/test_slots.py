# SPDX-License-Identifier: Apache-2.0
"""Attention over slots equals plain attention of each sequence alone, whatever else is in the pass."""

from __future__ import annotations

import pytest
import torch

from luthier.kernels.attention import plain_attention
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
