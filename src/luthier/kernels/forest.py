# SPDX-License-Identifier: Apache-2.0
"""The forest: trees of token segments laid flat on one token axis, without padding.

    tree 0: [prompt | chosen | rejected]   tree 1: [example]
             ^root     ^child of prompt             ^root

A token attends to the earlier tokens of its own segment and to all tokens of the segment's ancestors.
Positions go on from the parent's end, so each branch sees exactly what it would see alone.

Shapes: T tokens, N segments, S scored tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from luthier.core.tasks import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luthier.core.types import Segment, Tree


@dataclass(frozen=True, kw_only=True)
class Share:
    """One adapter's part of a forest.

    Attributes:
        tokens: Its tokens.
        scored: Its scored tokens.
    """

    tokens: slice
    scored: slice


@dataclass(frozen=True, kw_only=True)
class Forest:
    """A batch.

    Attributes:
        input_ids: Token ids, int64 [T].
        position_ids: Position of each token in its own branch, int64 [T].
        starts: First token of each segment, and T at the end; N + 1 numbers.
        parents: Parent of each segment, -1 for a root; N numbers, a parent stands before its children.
        trees: Tree of each segment; N numbers.
        adapters: Adapter of each tree.
        score_index: The token whose hidden state predicts each scored token, int64 [S].
        score_target: The scored token's id, int64 [S].
        score_segment: The scored token's segment, int64 [S].
        rows: Data row of each tree, for messages.
        grades: Of each segment that is a judged answer, NaN for all others; N numbers (`core.types.Judged`).
        scores: Likewise, in the data's own unit; 0 where the data has none.
        reference: What the reference model says of each scored token, float32 [S]; None where nobody asked it.
        labels: Class of each token, -100 where it has none, int64 [T]; None where no token has one.
        type_ids: Which of two texts each token belongs to, int64 [T]; None: all to the first.
        targets: Of each tree, as in `core.types.Tree`; empty where no tree has any.
        step: What an objective asked for of the whole optimiser step (`core.trainable.Gathering.gather`).
        place: Which of the step's micro-batches this is, over all ranks: where its own part stands in `step`.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    starts: tuple[int, ...]
    parents: tuple[int, ...]
    trees: tuple[int, ...]
    adapters: tuple[int, ...]
    score_index: torch.Tensor
    score_target: torch.Tensor
    score_segment: torch.Tensor
    rows: tuple[str, ...]
    grades: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    reference: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    type_ids: torch.Tensor | None = None
    targets: tuple[tuple[float, ...], ...] = ()
    step: Mapping[str, torch.Tensor] = field(default_factory=dict)
    place: int = 0

    @property
    def num_tokens(self) -> int:
        """Real tokens; there are no others."""
        return self.starts[-1]

    @property
    def num_scored(self) -> int:
        """Scored tokens, labelled tokens, and examples with targets: what there is to learn from."""
        labelled = 0 if self.labels is None else int((self.labels >= 0).sum())
        return len(self.score_target) + labelled + sum(map(bool, self.targets))

    @property
    def num_pairs(self) -> int:
        """Pairs of a token and one that it sees, itself included: what attention computes (windows left aside)."""
        lengths = self.lengths()
        above = (sum(lengths[i] for i in self.ancestors(segment)) for segment in range(len(lengths)))
        return sum(own * (own + 1) // 2 + own * seen for own, seen in zip(lengths, above, strict=True))

    @property
    def is_flat(self) -> bool:
        """Whether every segment is a root: plain packed examples."""
        return all(parent < 0 for parent in self.parents)

    def lengths(self) -> list[int]:
        """Tokens of each segment."""
        return [b - a for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def ancestors(self, segment: int) -> list[int]:
        """The segment's ancestors, root first."""
        chain: list[int] = []
        while (segment := self.parents[segment]) >= 0:
            chain.append(segment)
        return chain[::-1]

    def longest(self) -> int:
        """Tokens of the longest branch: the largest position and one."""
        ends: list[int] = []
        for length, parent in zip(self.lengths(), self.parents, strict=True):
            ends.append(length + (ends[parent] if parent >= 0 else 0))
        return max(ends)

    def shares(self, adapters: int) -> list[Share]:
        """Which tokens and which scored tokens are each adapter's; trees stand in the order of their adapters.

        Args:
            adapters: How many there are; one without a tree has an empty share.

        Raises:
            ValueError: The trees of an adapter do not stand together.
        """
        owners = np.array([self.adapters[tree] for tree in self.trees], np.int64)
        if np.any(np.diff(owners) < 0):
            raise ValueError("the trees of a forest of several adapters must stand in the adapters' order")
        bounds = np.searchsorted(owners, np.arange(adapters + 1))  # segments
        scored = np.searchsorted(self.score_segment.cpu().numpy(), bounds)
        tokens = [self.starts[segment] for segment in bounds]
        return [
            Share(tokens=slice(tokens[k], tokens[k + 1]), scored=slice(int(scored[k]), int(scored[k + 1])))
            for k in range(adapters)
        ]

    def to(self, device: torch.device | str) -> Forest:
        """The same forest with its tensors on `device`."""
        names = ["input_ids", "position_ids", "score_index", "score_target", "score_segment"]
        names += ["reference", "labels", "type_ids"]
        tensors = {name: tensor for name in names if (tensor := getattr(self, name)) is not None}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


def plant(trees: Sequence[Tree]) -> Forest:
    """Lay trees flat.

    The first token of a child segment is predicted by the last token of its parent; the first token of a root is
    predicted by nothing and is never scored.

    Args:
        trees: At least one tree with at least one token.

    Example:
        >>> import numpy as np
        >>> from luthier.core.types import Segment, Tree
        >>> a = Segment(ids=np.array([5, 6], np.int32), scored=np.array([False, True]))
        >>> b = Segment(ids=np.array([7], np.int32), scored=np.array([True]))
        >>> forest = plant([Tree(segments=(a, b, b), parents=(-1, 0, 0))])
        >>> forest.position_ids.tolist(), forest.score_index.tolist()
        ([0, 1, 2, 2], [0, 1, 1])
    """
    ids, positions, index, target, owner = [], [], [], [], []
    grades: list[float] = []
    scores: list[float] = []
    references: list[np.ndarray | None] = []
    starts: list[int] = [0]
    parents: list[int] = []
    tree_of: list[int] = []
    for number, tree in enumerate(trees):
        first = len(parents)
        offsets: list[int] = []  # position of each segment's first token in its branch
        last: list[int] = []  # last token of the branch down to each segment, -1 for none: a segment may be empty
        grades += tree.grades or [math.nan] * len(tree.segments)
        scores += tree.scores or [0.0] * len(tree.segments)
        for segment, parent in zip(tree.segments, tree.parents, strict=True):
            start = starts[-1]
            offset = 0 if parent < 0 else offsets[parent] + len(tree.segments[parent])
            before = -1 if parent < 0 else last[parent]
            offsets.append(offset)
            last.append(start + len(segment) - 1 if len(segment) else before)
            scored = np.flatnonzero(segment.scored)
            reference = segment.reference
            if before < 0:
                reference = reference[scored > 0] if reference is not None else None
                scored = scored[scored > 0]
            if len(scored):
                references.append(reference)
            index.append(np.where(scored > 0, start + scored - 1, before))
            target.append(segment.ids[scored])
            owner.append(np.full(len(scored), len(parents)))
            ids.append(segment.ids)
            positions.append(np.arange(offset, offset + len(segment)))
            starts.append(start + len(segment))
            parents.append(-1 if parent < 0 else first + parent)
            tree_of.append(number)
    every = [segment for tree in trees for segment in tree.segments]
    return Forest(
        input_ids=_int64(ids),
        position_ids=_int64(positions),
        starts=tuple(starts),
        parents=tuple(parents),
        trees=tuple(tree_of),
        adapters=tuple(tree.adapter for tree in trees),
        score_index=_int64(index),
        score_target=_int64(target),
        score_segment=_int64(owner),
        rows=tuple(tree.row for tree in trees),
        grades=tuple(grades),
        scores=tuple(scores),
        reference=_joined(references),
        labels=_filled([segment.labels for segment in every], every, IGNORED),
        type_ids=_filled([segment.types for segment in every], every, 0),
        targets=tuple(tree.targets for tree in trees) if any(tree.targets for tree in trees) else (),
    )


def _filled(parts: list[np.ndarray | None], segments: Sequence[Segment], missing: int) -> torch.Tensor | None:
    """One number a token, `missing` in segments that have none; None where no segment has any."""
    if all(part is None for part in parts):
        return None
    whole = zip(parts, segments, strict=True)
    return _int64([np.full(len(segment), missing) if part is None else part for part, segment in whole])


def _joined(references: list[np.ndarray | None]) -> torch.Tensor | None:
    known = [reference for reference in references if reference is not None]
    if not known:
        return None
    if len(known) < len(references):
        raise ValueError("some trees of a forest know what the reference says of them, and some do not")
    return torch.from_numpy(np.concatenate(known).astype(np.float32))


def _int64(parts: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
