# SPDX-License-Identifier: Apache-2.0
"""`plant` lays any trees out so that each branch is what it would be alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.kernels.forests import forests, trees

from luthier.core.types import Segment, Tree
from luthier.kernels.attention import visible
from luthier.kernels.forest import Forest, plant


def _branch(forest: Forest, segment: int) -> list[int]:
    """Places of all tokens from the root to the end of a segment."""
    chain = [*forest.ancestors(segment), segment]
    return [place for one in chain for place in range(forest.starts[one], forest.starts[one + 1])]


@given(st.lists(trees(), min_size=1, max_size=3))
def test_no_token_is_lost_or_moved(planted: list[Tree]) -> None:
    forest = plant(planted)
    ids = [segment.ids for tree in planted for segment in tree.segments]
    assert forest.input_ids.tolist() == np.concatenate(ids).tolist()
    assert forest.lengths() == [len(one) for one in ids]
    assert forest.num_tokens == sum(map(len, planted)) == len(forest.position_ids)
    assert forest.adapters == tuple(tree.adapter for tree in planted)
    assert forest.rows == tuple(tree.row for tree in planted)
    assert [forest.trees.count(number) for number in range(len(planted))] == [len(tree.segments) for tree in planted]
    assert forest.is_flat == all(parent < 0 for tree in planted for parent in tree.parents)


@given(forests())
def test_positions_count_along_each_branch(forest: Forest) -> None:
    for segment in range(len(forest.parents)):
        branch = _branch(forest, segment)
        assert forest.position_ids[branch].tolist() == list(range(len(branch)))
    assert forest.longest() == int(forest.position_ids.max()) + 1


@given(forests())
def test_parents_stay_inside_their_tree_and_before_their_children(forest: Forest) -> None:
    for segment, parent in enumerate(forest.parents):
        assert parent < segment
        assert parent < 0 or forest.trees[parent] == forest.trees[segment]


@given(st.lists(trees(), min_size=1, max_size=3))
def test_each_scored_token_is_predicted_by_the_one_before_it_in_its_branch(planted: list[Tree]) -> None:
    forest = plant(planted)
    wanted = []
    scored = [segment.scored for tree in planted for segment in tree.segments]
    for segment, flags in enumerate(scored):
        branch = _branch(forest, segment)
        for offset in np.flatnonzero(flags):
            place = len(branch) - len(flags) + offset
            if place > 0:  # nothing predicts the first token of a root
                wanted.append((branch[place - 1], int(forest.input_ids[branch[place]]), segment))
    got = zip(forest.score_index.tolist(), forest.score_target.tolist(), forest.score_segment.tolist(), strict=True)
    assert list(got) == wanted
    assert forest.num_scored == len(wanted)


@given(forests(), st.one_of(st.none(), st.integers(1, 5)))
def test_a_token_sees_its_past_and_its_ancestors_and_nothing_else(forest: Forest, window: int | None) -> None:
    mask = visible(forest, window)
    for segment in range(len(forest.parents)):
        branch = _branch(forest, segment)
        for place in range(forest.starts[segment], forest.starts[segment + 1]):
            past = branch[: branch.index(place) + 1]
            assert torch.nonzero(mask[place])[:, 0].tolist() == sorted(past if window is None else past[-window:])


def test_the_first_token_after_an_empty_prompt_is_predicted_by_the_tokens_above() -> None:
    one = Segment(ids=np.array([4, 5], np.int32), scored=np.array([True, True]))
    none = Segment(ids=np.zeros(0, np.int32), scored=np.zeros(0, np.bool_))
    forest = plant([Tree(segments=(one,)), Tree(segments=(one, none, one, none, one), parents=(-1, 0, 1, -1, 3))])
    # Last segment: its only ancestor is empty, so its first token starts a branch and is not scored.
    assert forest.score_index.tolist() == [0, 2, 3, 4, 6]
    assert forest.position_ids.tolist() == [0, 1, 0, 1, 2, 3, 0, 1]


def test_tensors_move_and_numbers_stay() -> None:
    forest = plant([Tree(segments=(Segment(ids=np.arange(3, dtype=np.int32), scored=np.ones(3, np.bool_)),))])
    moved = forest.to("meta")
    assert moved.input_ids.device.type == moved.score_index.device.type == "meta"
    assert (moved.starts, moved.parents) == (forest.starts, forest.parents)
    with pytest.raises(AttributeError):
        forest.starts = (0,)  # type: ignore[misc]
