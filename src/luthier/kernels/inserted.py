# SPDX-License-Identifier: Apache-2.0
"""Forests with more tokens than their rows have: a segment above all trees, or tokens inside each segment.

They stand for no word: whoever asked for them has vectors, or keys and values, to put in their place.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from luthier.core.tasks import IGNORED

if TYPE_CHECKING:
    from luthier.kernels.forest import Forest


def under(forest: Forest, length: int) -> Forest:
    """The same trees, all of them children of one new segment that stands before them and belongs to no tree.

        [new | root | child | child | root]

    It is computed once for all trees, each of which sees it as its own past.

    Args:
        forest: The batch.
        length: Tokens of the new segment. Their ids are 0: they stand for no word.

    Example:
        >>> import numpy as np
        >>> from luthier.core.types import Segment, Tree
        >>> from luthier.kernels.forest import plant
        >>> a = Segment(ids=np.array([5, 6], np.int32), scored=np.array([False, True]))
        >>> forest = under(plant([Tree(segments=(a,)), Tree(segments=(a, a), parents=(-1, 0))]), 3)
        >>> forest.parents, forest.position_ids.tolist()
        ((-1, 0, 0, 2), [0, 1, 2, 3, 4, 3, 4, 5, 6])
    """
    ids, positions = forest.input_ids, forest.position_ids
    return replace(
        forest,
        input_ids=torch.cat([ids.new_zeros(length), ids]),
        position_ids=torch.cat([torch.arange(length, device=positions.device), positions + length]),
        starts=(0, *(start + length for start in forest.starts)),
        parents=(-1, *(parent + 1 for parent in forest.parents)),
        trees=(-1, *forest.trees),
        score_index=forest.score_index + length,
        score_segment=forest.score_segment + 1,
        grades=(math.nan, *forest.grades) if forest.grades else (),
        scores=(0.0, *forest.scores) if forest.scores else (),
        labels=_led(forest.labels, length, IGNORED),
        type_ids=_led(forest.type_ids, length, 0),
    )


def within(forest: Forest, length: int) -> tuple[Forest, torch.Tensor, torch.Tensor]:
    """The same trees with new tokens at the start of each segment that has some, and none after which they stand.

        [new a a a | new b b]

    Args:
        forest: Whole texts: no segment with tokens below another one.
        length: New tokens of each segment. Their ids are 0: they stand for no word.

    Returns:
        The forest; where its old tokens stand in it, int64 [T]; and of each of its tokens, where it comes from: the new
        ones from 0 to `length` - 1, old token t from `length` + t.

    Example:
        >>> import numpy as np
        >>> from luthier.core.types import Segment, Tree
        >>> from luthier.kernels.forest import plant
        >>> a = Segment(ids=np.array([5, 6], np.int32), scored=np.array([False, True]))
        >>> longer, kept, sources = within(plant([Tree(segments=(a,)), Tree(segments=(a,))]), 1)
        >>> longer.input_ids.tolist(), longer.position_ids.tolist(), kept.tolist(), sources.tolist()
        ([0, 5, 6, 0, 5, 6], [0, 1, 2, 0, 1, 2], [1, 2, 4, 5], [0, 1, 2, 0, 3, 4])
    """
    device = forest.input_ids.device
    lengths = np.array(forest.lengths(), np.int64)
    longer = lengths + length * (lengths > 0)
    starts = np.concatenate([[0], np.cumsum(longer)])
    kept = torch.from_numpy(np.arange(lengths.sum()) + np.repeat(starts[1:] - np.cumsum(lengths), lengths)).to(device)
    sources = torch.from_numpy(np.arange(starts[-1]) - np.repeat(starts[:-1], longer)).to(device)
    positions = sources.index_copy(0, kept, forest.position_ids + length)
    sources = sources.index_copy(0, kept, torch.arange(length, length + len(kept), device=device))

    def spread(values: torch.Tensor | None, by: int) -> torch.Tensor | None:
        return None if values is None else values.new_full((len(sources),), by).index_copy(0, kept, values)

    ids = spread(forest.input_ids, 0)
    assert ids is not None
    return (
        replace(
            forest,
            input_ids=ids,
            position_ids=positions,
            starts=tuple(starts.tolist()),
            score_index=kept.index_select(0, forest.score_index),
            labels=spread(forest.labels, IGNORED),
            type_ids=spread(forest.type_ids, 0),
        ),
        kept,
        sources,
    )


def _led(values: torch.Tensor | None, length: int, by: int) -> torch.Tensor | None:
    return None if values is None else torch.cat([values.new_full((length,), by), values])
