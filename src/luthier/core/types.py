# SPDX-License-Identifier: Apache-2.0
"""The things that travel between folders: messages, examples, segments, trees.

Shapes: L tokens of one segment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of tokens that belongs together.

    Attributes:
        ids: Token ids, int32 of shape [L].
        scored: Whether the log-probability of this token is wanted, bool of shape [L].
    """

    ids: npt.NDArray[np.int32]
    scored: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """Segments and the parent of each: one training example.

    A plain example is one segment. A preference pair is a prompt with two children.

    Attributes:
        segments: In topological order: a parent stands before its children.
        parents: Index of each segment's parent in ``segments``, -1 for a root.
        adapter: Which adapter this tree trains (0 where there is one).
        row: ``source:number`` of the data row, for messages to the user.
    """

    segments: tuple[Segment, ...]
    parents: tuple[int, ...] = (-1,)
    adapter: int = 0
    row: str = field(default="", compare=False)

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)
