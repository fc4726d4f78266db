# SPDX-License-Identifier: Apache-2.0
"""Continuations of contexts as trees: what several of one item have in common is computed once.

    root: the tokens that all of them begin with      child: [rest of the context | continuation]
                                                                                     ^ scored

Several choices after one question are children of the question; one ending after several contexts (WinoGrande) are
children of what the contexts begin with. Tokens are those of context and continuation written as one text, and the
continuation's are those that cover a character of it: spaces that a context ends with belong to it, as in lm-eval.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import DataError, ModelError
from luthier.core.types import Segment, Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A context and what may follow it.

    Attributes:
        context: As it stands; it may be empty.
        continuation: Likewise, with the space that parts it from the context.
    """

    context: str
    continuation: str


@dataclass(frozen=True, kw_only=True)
class Planted:
    """The branches of one item.

    Attributes:
        tree: A root and a child for each branch, in order.
        cut: Tokens that were left out at the start, since the model has no positions for them.
    """

    tree: Tree
    cut: int = 0


def plant_branches(
    tokenizer: PreTrainedTokenizerBase,
    branches: Sequence[Branch],
    where: str,
    *,
    templated: bool = False,
    limit: int | None = None,
) -> Planted:
    """Lay the branches of one item into a tree.

    Args:
        tokenizer: A fast one.
        branches: At least one.
        where: The item, for messages.
        templated: Contexts come from a chat template, which has written BOS and the like itself.
        limit: The longest branch in tokens; contexts lose their start beyond it.

    Raises:
        DataError: A continuation has no tokens, or is longer than the model.
    """
    encoded = [_encoded(tokenizer, branch, where, templated) for branch in branches]
    longest, cut = max(len(ids) for ids, _ in encoded), 0
    if limit is not None and longest > limit:
        cut = longest - limit
        encoded = [(ids[cut:], first - cut) for ids, first in encoded]
        if min(first for _, first in encoded) < 1:
            allowed = "continuations that leave room for a token of context"
            raise DataError(where, f"{longest} tokens where the model has {limit} positions", allowed, "leave it out")
    least = min(first for _, first in encoded)
    heads = zip(*(ids[:least] for ids, _ in encoded), strict=True)
    shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, heads))
    root = Segment(ids=np.array(encoded[0][0][:shared], np.int32), scored=np.zeros(shared, bool))
    children = [
        Segment(ids=np.array(ids[shared:], np.int32), scored=np.arange(shared, len(ids)) >= first)
        for ids, first in encoded
    ]
    return Planted(tree=Tree(segments=(root, *children), parents=(-1, *[0] * len(children)), row=where), cut=cut)


def _encoded(tokenizer: PreTrainedTokenizerBase, branch: Branch, where: str, templated: bool) -> tuple[list[int], int]:
    """Token ids of a branch, and the first one that is scored; there is a token before it."""
    context = branch.context if templated else branch.context.rstrip(" ")
    text = context + branch.context[len(context) :] + branch.continuation
    found = tokenizer(
        text, add_special_tokens=not templated, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    ids, added = list(found["input_ids"]), found["special_tokens_mask"]
    while ids and added[len(ids) - 1] and not templated:  # an end that the tokenizer adds is no part of the text
        ids.pop()
    ends = [end for _, end in found["offset_mapping"][: len(ids)]]
    first = next((place for place, end in enumerate(ends) if end > len(context)), len(ids))
    if first == len(ids):
        raise DataError(where, f"the continuation {branch.continuation!r} has no tokens", "a text", "leave it out")
    if first == 0:  # nothing stands before it: BOS does, as when the model began a text
        ids, first = [start_token(tokenizer), *ids], 1
    return ids, first


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands before a text which has none: BOS, else EOS.

    Raises:
        ModelError: The tokenizer has neither.
    """
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise ModelError("the tokenizer", "no bos_token and no eos_token", "one of them", "set it in the tokenizer")
    return int(token)
