# SPDX-License-Identifier: Apache-2.0
"""The things that travel between folders: messages, examples, segments, trees.

Shapes: L tokens of one segment.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation, before any template.

    Attributes:
        role: Who speaks.
        content: What is said.
        scored: False for an answer that its row asks not to train (``weight: 0``), whatever ``data.loss_on`` says.
    """

    role: Role
    content: str
    scored: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Messages in order; a chat template turns them into text."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A prompt and its continuation as they stand, without a template."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """Plain text; every token is scored."""

    text: str


Example = Conversation | Completion | Text
Answer = tuple[Message, ...] | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A prompt and answers to it that were judged: a preference pair, a ranked list, or one answer with a label.

    Attributes:
        prompt: Messages that a chat template renders, or text as it stands.
        answers: Each the messages that follow, ending with the assistant's, or text; all of the prompt's kind.
        grades: Of each answer; the higher the better, and only the order counts. A pair has 1 and 0, a single answer 1
            (desirable) or 0 (not).
        scores: Of each answer, in the data's own unit, where the data has them: a pair's margin is their difference.
    """

    prompt: Answer
    answers: tuple[Answer, ...]
    grades: tuple[float, ...]
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of tokens that belongs together.

    Attributes:
        ids: Token ids, int32 of shape [L].
        scored: Whether the log-probability of this token is wanted, bool of shape [L].
        reference: What the reference model says of each scored token, float32; None where nobody asked it.
        labels: Class of each token, `core.tasks.IGNORED` where it has none, int32 of shape [L]; None: no token has one.
        types: Which of two texts each token belongs to (`token_type_ids`), int8 of shape [L]; None: the first.
    """

    ids: npt.NDArray[np.int32]
    scored: npt.NDArray[np.bool_]
    reference: npt.NDArray[np.float32] | None = None
    labels: npt.NDArray[np.int32] | None = None
    types: npt.NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """Segments and the parent of each: one training example.

    A plain example is one segment. A preference pair is a prompt with two children.

    Attributes:
        segments: In topological order: a parent stands before its children.
        parents: Index of each segment's parent in ``segments``, -1 for a root.
        grades: Of each segment that is a judged answer, as in :class:`Judged`; NaN for all others, empty for none.
        scores: Likewise; empty where the data has none.
        targets: What is true of the whole example: its class, one number for each class (1 where it applies), its
            values, or the first and last token of an answer; empty for none.
        adapter: Which adapter this tree trains (0 where there is one).
        row: ``source:number`` of the data row, for messages to the user.
    """

    segments: tuple[Segment, ...]
    parents: tuple[int, ...] = (-1,)
    grades: tuple[float, ...] = field(default=(), compare=False)  # NaN is not equal to itself
    scores: tuple[float, ...] = field(default=(), compare=False)
    targets: tuple[float, ...] = ()
    adapter: int = 0
    row: str = field(default="", compare=False)

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    @property
    def num_scored(self) -> int:
        """Tokens whose log-probability is wanted."""
        return sum(int(segment.scored.sum()) for segment in self.segments)


def unshared(tree: Tree) -> Tree:
    """The same branches with every prompt once for each of its answers, as other trainers lay them out.

    Args:
        tree: Roots and their children; deeper ones are not laid out so. A tree without children stays as it is.

    Example:
        >>> import math
        >>> import numpy as np
        >>> one = Segment(ids=np.array([5], np.int32), scored=np.array([True]))
        >>> unshared(Tree(segments=(one, one, one), parents=(-1, 0, 0), grades=(math.nan, 1.0, 0.0))).parents
        (-1, 0, -1, 2)
    """
    leaves = [place for place, parent in enumerate(tree.parents) if parent >= 0]
    if not leaves:
        return tree
    order = [place for leaf in leaves for place in (tree.parents[leaf], leaf)]
    return replace(
        tree,
        segments=tuple(tree.segments[place] for place in order),
        parents=tuple(place - 1 if place % 2 else -1 for place in range(len(order))),
        grades=tuple(tree.grades[place] for place in order) if tree.grades else (),
        scores=tuple(tree.scores[place] for place in order) if tree.scores else (),
    )
