# SPDX-License-Identifier: Apache-2.0
"""Small trees of any shape, for hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from luthier.core.types import Segment, Tree
from luthier.kernels.forest import Forest, plant

VOCABULARY = 11


@st.composite
def trees(draw: st.DrawFn, *, most_segments: int = 5, most_tokens: int = 4, empty: bool = True) -> Tree:
    """A tree with at least one token; any parent before its children, any tokens scored, segments may be empty."""
    count = draw(st.integers(1, most_segments))
    parents = (-1, *(draw(st.integers(-1 if n % 3 == 0 else 0, n - 1)) for n in range(1, count)))
    lengths = [draw(st.integers(0 if empty else 1, most_tokens)) for _ in range(count)]
    lengths[draw(st.integers(0, count - 1))] += not any(lengths)
    segments = []
    for length in lengths:
        ids = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=length, max_size=length))
        scored = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        segments.append(Segment(ids=np.array(ids, np.int32), scored=np.array(scored, np.bool_)))
    return Tree(segments=tuple(segments), parents=parents, adapter=draw(st.integers(0, 3)), row="rows.jsonl:1")


def forests(*, most_trees: int = 3, most_segments: int = 5, empty: bool = True) -> st.SearchStrategy[Forest]:
    """One to three trees, planted."""
    return st.lists(trees(most_segments=most_segments, empty=empty), min_size=1, max_size=most_trees).map(plant)


def grow(*shape: tuple[tuple[int, ...], tuple[int, ...]]) -> Forest:
    """A forest from (lengths, parents) of each tree, every token scored."""
    planted = []
    for lengths, parents in shape:
        segments = tuple(
            Segment(ids=np.arange(n, dtype=np.int32) % VOCABULARY, scored=np.ones(n, bool)) for n in lengths
        )
        planted.append(Tree(segments=segments, parents=parents))
    return plant(planted)
