# SPDX-License-Identifier: Apache-2.0
"""Packing loses no row, overfills no bin, and leaves little room."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.pack import best_fit, fill, in_order


@pytest.mark.parametrize("pack", [best_fit, in_order])
@given(size=st.integers(1, 300), shares=st.lists(st.floats(0, 1), max_size=200))
def test_every_row_once_and_no_bin_too_full(pack, size, shares):
    lengths = np.array([max(1, round(share * size)) for share in shares], np.int32)
    bins = pack(lengths, size)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(lengths[rows].sum() <= size for rows in bins)
    assert all(len(rows) for rows in bins)


@given(size=st.integers(8, 64), shares=st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_best_fit_is_what_a_plain_search_finds(size, shares):
    lengths = np.array([max(1, round(share * size)) for share in shares], np.int32)
    rooms: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms[rooms.index(min(fitting))] -= length
        else:
            rooms.append(size - length)
    bins = best_fit(lengths, size)
    assert sorted(size - int(lengths[rows].sum()) for rows in bins) == sorted(rooms)


@given(lengths=st.lists(st.integers(1, 50), max_size=100))
def test_in_order_keeps_the_order(lengths):
    bins = in_order(np.array(lengths, np.int32), 50)
    assert [row for rows in bins for row in rows] == list(range(len(lengths)))


def test_instructions_fill_their_bins():
    # as the 5,000 first Alpaca rows with GPT-2: median 73 tokens, longest 633
    lengths = np.clip(np.random.default_rng(0).lognormal(4.3, 0.7, 5000), 8, 1024).astype(np.int32)
    for size in (512, 1024, 2048):
        assert fill(lengths[lengths <= size], best_fit(lengths[lengths <= size], size), size) > 0.985
    assert fill(lengths, in_order(lengths, 1024), 1024) < 0.98


def test_the_number_of_bins_does_not_depend_on_the_order():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 200, 3000)
    assert len({len(best_fit(random.permutation(lengths), 256)) for _ in range(5)}) == 1


def test_packing_is_deterministic():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    one, two = best_fit(lengths, 128), best_fit(lengths, 128)
    assert [rows.tolist() for rows in one] == [rows.tolist() for rows in two]


def test_nothing_to_pack():
    none = np.zeros(0, np.int32)
    assert best_fit(none, 8) == in_order(none, 8) == []
    assert fill(none, [], 8) == 0.0
