# SPDX-License-Identifier: Apache-2.0
"""Prompts -> replies over slots: no padding, what has ended makes room for the next, what all share is read once.

A pass brings the next token of each reply and the prompts of those that have just come, on one axis (`kernels.slots`);
`serve.engine` runs on the same passes. Whether a model can run so is proven first, against its own forward pass.

Shapes: R rows of a pass, V vocabulary.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.kernels.slots import Layout, Piece
from luthier.models import planted
from luthier.models.backbone import head_logits, last_position, scored_logprobs
from luthier.models.failures import UNKNOWN_WAYS
from luthier.models.rounding import MEAN_TOLERANCE, TOLERANCE
from luthier.models.sampling import Draw, generator
from luthier.models.slots import Slots
from luthier.models.virtual import num_virtual
from luthier.models.virtual_slots import on_slots, virtual_begun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from luthier.models.generate_pairs import Asked

PREFILL = 2048  # tokens of prompts in one pass
SHARED = 8  # tokens that all prompts begin with: from so many on they are read once
_PROOF = (4, 6, 7, 8)  # where the chunks of the proof's text end; it has a token more


def write_replies(
    model: PreTrainedModel, prompts: Sequence[list[int]], stops: Sequence[int], asked: Asked
) -> list[list[int]] | None:
    """Write a reply to each prompt.

    Args:
        model: A causal language model, in evaluation mode or not; left as it was.
        prompts: Token ids of each, at least one.
        stops: Tokens that end a reply.
        asked: How replies are written.

    Returns:
        Ids of each reply up to its stop; None where the model does not run on slots (another attention than the
        loader's, compiled layers, a proof that fails).
    """
    longest = max(map(len, prompts)) + asked.max_new_tokens + num_virtual(model)
    if not _may(model, longest):
        return None
    slots = Slots(max(2, min(asked.batch_size, len(prompts))), longest + _PROOF[-1])
    try:
        wanted, writing = _own(model), _Writing(model, slots, stops, asked)
        with on_slots(model):
            proven = writing.proven(wanted)
    except UNKNOWN_WAYS as error:
        _say_padded(type(model).__name__, f"it does not run so ({str(error)[:200]})")
        return None
    if not proven:
        _say_padded(type(model).__name__, "its passes differ from its own forward")
        return None
    with on_slots(model):
        return writing.write(prompts)


@cache
def _say_padded(name: str, why: str) -> None:
    """Once for each kind of model: the same replies come, only later."""
    logging.getLogger("luthier.models").warning(
        f"{name}: replies are written by transformers' generate, with padding, and not over slots: {why}"
    )


def _may(model: PreTrainedModel, longest: int) -> bool:
    """Whether it is worth a proof."""
    limit, _ = last_position(model.config.get_text_config(), model.get_decoder())
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    longest = max(longest, _PROOF[-1] + 1 + num_virtual(model))
    return model.config._attn_implementation == planted.NAME and not compiled and (limit is None or longest <= limit)


def _text(model: PreTrainedModel) -> np.ndarray[Any, Any]:
    """A text that nobody wrote, for the proof."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    return np.random.default_rng(0).integers(0, vocabulary, _PROOF[-1] + 1).astype(np.int32)


@torch.no_grad()
def _own(model: PreTrainedModel) -> torch.Tensor:
    """What the model's own forward says of that text."""
    ids, training = _text(model), model.training
    tree = Tree(segments=(Segment(ids=ids, scored=np.arange(len(ids)) >= _PROOF[0]),))
    model.eval()
    try:
        return scored_logprobs(model, plant([tree]).to(model.device))
    finally:
        model.train(training)


@dataclass(eq=False)
class _Reply:
    """A reply on its way.

    Attributes:
        number: Of its prompt.
        ids: Tokens of the prompt, and those written so far.
        prompt: Tokens of the prompt alone.
        slot: Its place.
        done: Tokens that are in the slot.
        draws: Its random numbers, where it is drawn.
    """

    number: int
    ids: list[int]
    prompt: int
    slot: int
    done: int
    draws: torch.Generator | None


class _Writing:
    """Replies of one model.

    Args:
        model: As its own forward runs; it is on slots where something is written.
        slots: Empty.
        stops: Tokens that end a reply.
        asked: How replies are written.
    """

    def __init__(self, model: PreTrainedModel, slots: Slots, stops: Sequence[int], asked: Asked) -> None:
        self._model, self._slots, self._asked, self._stops = model, slots, asked, frozenset(stops)
        self._begun = virtual_begun(model)
        self._offset = num_virtual(model)  # tokens in a slot before a prompt's own

    def _pass(self, brought: list[tuple[int, int, list[int]]]) -> torch.Tensor:
        """What follows the last token of each: (slot, tokens of the sequence before, its next ones) -> [R, V]."""
        pieces = [Piece(slot=slot, begin=self._offset + begin, ids=ids) for slot, begin, ids in brought]
        layout = Layout(pieces, self._model.device)
        with self._slots.passing(layout):
            decoder: Any = self._model.get_decoder()
            ids, positions = layout.input_ids[None], layout.position_ids[None]
            output = decoder(input_ids=ids, position_ids=positions, use_cache=False)
        return head_logits(self._model, output.last_hidden_state[0].index_select(0, layout.ends))

    def proven(self, wanted: torch.Tensor) -> bool:
        """Whether passes say of a text what the model's own forward says, in chunks and beside another one."""
        ids, begin, got = _text(self._model).tolist(), 0, []
        self._pass([(0, 0, ids[:1]), (1, 0, ids[:1])])  # which makes the slots
        if self._begun is not None:
            self._slots.put([0, 1], self._begun)
        for end in _PROOF:
            logits = self._pass([(0, 0, ids[2 : 3 + end % 3]), (1, begin, ids[begin:end])])
            got.append(torch.log_softmax(logits[1], -1)[ids[end]])
            begin = end
        told = [end - _PROOF[0] for end in _PROOF]
        difference = (torch.stack(got) - wanted[told]).double().abs()
        dtype = self._model.dtype
        for slot in (0, 1):
            self._slots.clear(slot, self._slots.capacity)
        return bool(difference.max() <= TOLERANCE[dtype] and difference.mean() <= MEAN_TOLERANCE[dtype])

    def write(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        """Ids of each reply up to its stop, in the prompts' order."""
        shared = self._share(prompts)
        # Longest first: what does not fit into memory fails at once.
        waiting = deque(sorted(range(len(prompts)), key=lambda number: -len(prompts[number])))
        free = list(range(min(self._asked.batch_size, len(prompts))))
        running: list[_Reply] = []
        found: list[list[int]] = [[] for _ in prompts]
        while waiting or running:
            fresh = [
                self._begin(number, prompts[number], heapq.heappop(free), shared)
                for number in [waiting.popleft() for _ in range(min(len(waiting), len(free)))]
            ]
            if fresh and self._begun is not None:
                self._slots.put([reply.slot for reply in fresh], self._begun)
            running += fresh
            for reply in self._go_on(running):
                running.remove(reply)
                self._slots.clear(reply.slot, self._offset + reply.done)
                heapq.heappush(free, reply.slot)
                found[reply.number] = reply.ids[reply.prompt :]
        return found

    def _share(self, prompts: Sequence[list[int]]) -> int:
        """Read once what all prompts begin with: it stands in each slot like virtual tokens; how many tokens it has."""
        common = min(prompts)
        columns = zip(common, max(prompts), strict=False)  # the two of them that differ first
        length = next((place for place, (a, b) in enumerate(columns) if a != b), min(map(len, prompts)))
        length = min(length, min(map(len, prompts)) - 1)
        if len(prompts) < 2 or length < SHARED:
            return 0
        if self._begun is not None:
            self._slots.put([0], self._begun)
        for begin in range(0, length, PREFILL):
            self._pass([(0, begin, common[begin : min(begin + PREFILL, length)])])
        self._begun = self._slots.begun(0, self._offset + length)
        return length

    def _begin(self, number: int, prompt: list[int], slot: int, shared: int) -> _Reply:
        asked = self._asked
        draws = generator(asked.seed, number, self._model.device) if asked.temperature > 0 else None
        return _Reply(number=number, ids=list(prompt), prompt=len(prompt), slot=slot, done=shared, draws=draws)

    def _go_on(self, running: list[_Reply]) -> list[_Reply]:
        """One pass; the replies that have ended."""
        left, brought, chosen = PREFILL, [], []
        for reply in running:
            rest = len(reply.ids) - reply.done
            count = rest if rest == 1 else min(rest, left)
            if count:
                left -= count if rest > 1 else 0
                brought.append((reply.slot, reply.done, reply.ids[reply.done : reply.done + count]))
                chosen.append(reply)
                reply.done += count
        logits = self._pass(brought)
        ready = [place for place, reply in enumerate(chosen) if reply.done == len(reply.ids)]
        rows = [chosen[place] for place in ready]
        tokens = self._next(logits if len(ready) == len(chosen) else logits[ready], rows)
        return [reply for reply, token in zip(rows, tokens, strict=True) if self._ends(reply, token)]

    def _next(self, logits: torch.Tensor, rows: list[_Reply]) -> list[int]:
        draws = [reply.draws for reply in rows if reply.draws is not None]
        if draws:
            logits = Draw(self._asked.temperature, self._asked.top_p, draws)(logits, logits)
        found: list[int] = logits.argmax(-1).tolist()
        return found

    def _ends(self, reply: _Reply, token: int) -> bool:
        """Take a token; whether it, or the length, ends the reply."""
        if token in self._stops:
            return True
        reply.ids.append(token)
        return len(reply.ids) - reply.prompt >= self._asked.max_new_tokens
