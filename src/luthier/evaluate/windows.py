# SPDX-License-Identifier: Apache-2.0
"""Texts as the windows that a model reads of them: every scored token in one window, with what stands before it.

    tokens   0 1 2 3 4 5 6 7 8 9      windows of 5 that share 2:  [0 1 2 3 4] [3 4 5 6 7] [6 7 8 9]
    scored in the first               1 2 3 4, in the second 5 6 7, in the third 8 9

A text that the tokenizer gives no BOS has one before it (EOS where there is none), as in lm-evaluation-harness, so that
its first token counts too; a conversation has its template, and only its answers with their ends of turn are scored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError, RecipeError
from luthier.core.types import Completion, Conversation, Segment, Text, Tree
from luthier.data.faults import RowFault
from luthier.data.prepare import open_context
from luthier.data.template import no_template
from luthier.data.windows import windows
from luthier.evaluate.continuations import start_token
from luthier.evaluate.rows import SuiteKeys
from luthier.recipe.schema import Data, NonNegative, Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.core.types import Example

MAX_LENGTH = 1024


class WindowKeys(SuiteKeys):
    """How long windows are, and by how much they move on."""

    max_length: int | None = None
    """Tokens of a window; default what the model has positions for, at most 1024."""
    stride: NonNegative | None = None
    """Tokens by which windows of a longer text move on; what they share is context. Default: they share one."""
    system: str | None = None
    """System prompt of conversations that have none; the one that a run was trained with comes after it."""


@dataclass(frozen=True, kw_only=True)
class LaidText:
    """A text to be scored.

    Attributes:
        text: What of it is scored.
        trees: Its windows, each one segment.
        counts: Scored `tokens`, `words` and `bytes`.
    """

    text: str
    trees: tuple[Tree, ...]
    counts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class _Marked:
    """A text, what of it is scored, and whether BOS and the like stand in it already."""

    text: str
    spans: tuple[tuple[int, int], ...]
    templated: bool


def lay_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    keys: WindowKeys,
    named: Sequence[tuple[str, Example]],
    system: str | None,
) -> list[LaidText]:
    """Make the windows of texts.

    Args:
        model: Its positions are the longest window.
        tokenizer: A fast one.
        keys: `max_length`, `stride` and `system` of the suite.
        named: What messages call each text, and the text.
        system: System prompt where the suite has none.

    Raises:
        DataError: A text has nothing to be scored.
        RecipeError: A window is longer than the model, or moves on by more than it is long.
    """
    from luthier.evaluate.scored import longest_branch, need_causal

    need_causal(model)
    limit = longest_branch(model)
    room = keys.max_length or min(limit or MAX_LENGTH, MAX_LENGTH)
    if room < 2 or (limit is not None and room > limit):
        allowed = f"2 to {limit}, the model's positions" if limit else "2 or more"
        raise RecipeError("suite max_length", f"received {room}", allowed, "correct it")
    stride = room - 1 if keys.stride is None else keys.stride
    if not 1 <= stride < room:
        raise RecipeError("suite stride", f"received {stride}", f"1 to {room - 1}, less than max_length", "correct it")
    marked = _marked(tokenizer, named, keys.system if keys.system is not None else system)
    return [_laid(tokenizer, one, where, room, stride) for (where, _), one in zip(named, marked, strict=True)]


def _marked(
    tokenizer: PreTrainedTokenizerBase, named: Sequence[tuple[str, Example]], system: str | None
) -> list[_Marked]:
    """What of each example is scored, as training scores it, but for the EOS that training adds."""
    chats = [example for _, example in named if isinstance(example, Conversation)]
    rendered: Any = iter(())
    if chats:
        context = open_context(Data(train=(Source(path="-"),), system=system), tokenizer, lambda _: None)
        if context.renderer is None:
            raise no_template()
        rendered = iter(context.renderer(chats))
    found = []
    for where, example in named:
        if isinstance(example, Conversation):
            one = next(rendered)
            if isinstance(one, RowFault):
                raise DataError(where, str(one), "a conversation that the template takes", "leave it out")
            found.append(_Marked(text=one.text, spans=one.spans, templated=True))
        elif isinstance(example, Completion):
            text = example.prompt + example.completion
            found.append(_Marked(text=text, spans=((len(example.prompt), len(text)),), templated=False))
        else:
            assert isinstance(example, Text)
            found.append(_Marked(text=example.text, spans=((0, len(example.text)),), templated=False))
    return found


def _laid(tokenizer: PreTrainedTokenizerBase, one: _Marked, where: str, room: int, stride: int) -> LaidText:
    words: dict[str, Any] = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "verbose": False}
    encoded = tokenizer(one.text, add_special_tokens=not one.templated, **words)
    ids = list(encoded["input_ids"])
    begins, ends = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2).T
    added = np.array(encoded["special_tokens_mask"], bool) & (not one.templated)
    scored = np.zeros(len(ids), bool)
    for start, end in one.spans:  # a token of white space that is trimmed off stands where it ended, without width
        scored |= (ends > start) & ((begins < end) | ((begins == ends) & (ends <= end)))
    scored &= ~added
    if len(ids) and scored[0]:
        ids, scored = [start_token(tokenizer), *ids], np.concatenate([[False], scored])
        begins, ends = np.concatenate([[0], begins]), np.concatenate([[0], ends])
    if not scored.any():
        raise DataError(where, "nothing to be scored", "a text with a token at least", "leave it out")
    special = np.isin(ids, tokenizer.all_special_ids)
    plain = _without(one, begins, ends, special)
    counts = {"tokens": int(scored.sum()), "words": max(len(re.split(r"\s+", plain)), 1), "bytes": len(plain.encode())}
    trees, before = [], 0
    array = np.array(ids, np.int32)
    for start, end in windows(len(ids), room, room - stride):
        own = scored[start:end] & (np.arange(start, end) >= before)
        before = end
        if own.any():
            segment = Segment(ids=array[start:end], scored=own)
            trees.append(Tree(segments=(segment,), row=where))
    return LaidText(text=plain, trees=tuple(trees), counts=counts)


def _without(one: _Marked, begins: np.ndarray, ends: np.ndarray, special: np.ndarray) -> str:
    """The scored characters but for those of special tokens, such as the end of a turn: they are no bytes of a text."""
    kept = np.zeros(len(one.text), bool)
    for start, end in one.spans:
        kept[start:end] = True
    for begin, end in zip(begins[special], ends[special], strict=True):
        kept[begin:end] = False
    return "".join(sign for sign, is_kept in zip(one.text, kept, strict=True) if is_kept)
