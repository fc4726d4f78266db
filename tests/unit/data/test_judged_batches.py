# SPDX-License-Identifier: Apache-2.0
"""Judged rows as batches: counted as examples, prompts shared or repeated, mismatched answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.unit.data.judged_pairs import PAIRS, flat

from luthier.core.errors import DataError
from luthier.core.types import unshared
from luthier.data import Batches, Mismatched, eval_batches
from luthier.data.rows import Rows
from luthier.recipe.schema import Data, Train


def batches(rows, *, epochs=1.0, max_steps=-1, weights=(1.0,), **keys) -> Batches:
    data = Data(train=[{"path": "x", "weight": weight} for weight in weights], **{"max_length": 64} | keys)
    train = Train(
        per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=epochs, max_steps=max_steps
    )
    return Batches(rows, data, train, 3)


def drawn(found: Batches) -> list[str]:
    return [tree.row for step in range(found.total_steps) for micro in found.step(step) for tree in micro]


def test_pairs_are_examples_and_never_packed(pairs):
    found = batches(pairs.rows)  # data.packing is true, as by default
    assert found.total_steps == 3
    assert [[len(micro) for micro in found.step(step)] for step in range(3)] == [[2, 2], [2, 2], [1]]
    assert len(set(drawn(found))) == 9
    held_out = eval_batches(pairs.rows, Data(train="x", max_length=64), Train(per_device_eval_batch_size=4))
    assert [len(batch) for batch in held_out] == [4, 4, 1]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("foreign", [True, False])
def test_the_largest_micro_batch(pairs, share, foreign):
    rows = Mismatched(pairs.rows, 64) if foreign else pairs.rows
    found = batches(rows, share_prompts=share, epochs=40.0)
    largest = max(sum(map(len, micro)) for step in range(found.total_steps) for micro in found.step(step))
    assert largest == found.largest()  # in 40 epochs the two longest rows meet


def test_prompts_are_shared_or_not(pairs):
    once, apart = batches(pairs.rows).step(0)[0], batches(pairs.rows, share_prompts=False).step(0)[0]
    assert list(map(flat, apart)) == [flat(unshared(tree)) for tree in once]
    assert [tree.parents for tree in apart] == [(-1, 0, -1, 2)] * 2
    assert apart[0].grades[1::2] == (1.0, 0.0)
    held_out = eval_batches(pairs.rows, Data(train="x", share_prompts=False), Train())
    assert flat(held_out[0][0]) == flat(unshared(pairs.rows.tree(0)))


@pytest.mark.parametrize(
    "keys",
    [
        {"epochs": 0.4},
        {"epochs": 1.0},
        {"epochs": 2.6},
        {"max_steps": 1},
        {"max_steps": 40},
        {"epochs": 0.7, "weights": (0.5,)},
        {"epochs": 1.3, "weights": (0.5,)},
        {"max_steps": 3, "shuffle": False},
    ],
)
def test_visited_rows_are_those_that_the_steps_draw(pairs, keys):
    found = batches(pairs.rows, **keys)
    names = [found.rows.tree(int(row)).row for row in found.visited()]
    assert set(names) == set(drawn(found))
    assert found.visited().tolist() == sorted(set(found.visited().tolist()))


def test_a_source_of_weight_0_is_not_visited(write, prepared):
    rows = prepared([write(*PAIRS), write(*PAIRS[:3], name="b.jsonl")]).rows
    assert batches(rows, weights=(1.0, 0.001)).visited().tolist() == list(range(9))


class _Longer:
    """What wraps rows: the same, seen through another object."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.asked = rows, []
        self.lengths, self.scored, self.starts, self.judged = rows.lengths, rows.scored, rows.starts, rows.judged
        self.answers, self.prompts = rows.answers, rows.prompts

    def __len__(self) -> int:
        return len(self.rows)

    def tree(self, row):
        self.asked.append(row)
        return self.rows.tree(row)


def test_rows_may_be_replaced_by_a_wrapper(pairs):
    found = batches(pairs.rows)
    before = [list(map(flat, micro)) for micro in found.step(1)]
    found.rows = _Longer(pairs.rows)
    assert [list(map(flat, micro)) for micro in found.step(1)] == before
    assert len(found.rows.asked) == 4
    assert found.largest() == batches(pairs.rows).largest()


def test_mismatched_answers_are_the_next_rows(pairs):
    rows = pairs.rows
    found = Mismatched(rows, 1024)
    for row in range(9):
        tree, own, following = found.tree(row), rows.tree(row), rows.tree((row + 1) % 9)
        assert flat(tree)[1][:3] == flat(own)[1]
        assert np.array_equal(tree.segments[3].ids, following.segments[1].ids)
        assert np.array_equal(tree.segments[3].scored, following.segments[1].scored)
        assert tree.parents == (-1, 0, 0, 0)
        assert (tree.grades[1:3], tree.row) == (own.grades[1:], own.row)
        assert math.isnan(tree.grades[3])
        assert found.lengths[row] == len(tree)
    assert (len(found), found.answers.tolist()) == (9, [3] * 9)
    assert found.scored.tolist() == rows.scored.tolist()
    with pytest.raises(IndexError):
        found.tree(9)


def test_mismatched_answers_are_cut_to_fit(write, prepared):
    rows = prepared(
        write(
            {"prompt": "Q: " * 12, "completion": " a", "label": 1},
            {"prompt": "Q:", "completion": " b" * 40, "label": 0},
        ),
        max_length=64,
    ).rows
    tree = Mismatched(rows, 64).tree(0)
    assert len(tree.segments[0]) + len(tree.segments[2]) == 64
    assert len(tree.segments[2]) < len(rows.tree(1).segments[1])
    assert Mismatched(rows, 64).lengths[0] == len(tree)
    assert tree.scores == ()


def test_mismatched_answers_need_another_row(write, prepared):
    with pytest.raises(DataError, match="one row only; another row's answer is needed"):
        Mismatched(prepared(write(PAIRS[0])).rows, 64)
    with pytest.raises(ValueError, match="only judged rows"):
        Mismatched(prepared(write({"text": "a"}, {"text": "b"}, name="text.jsonl")).rows, 64)
