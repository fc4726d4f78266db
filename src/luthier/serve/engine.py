# SPDX-License-Identifier: Apache-2.0
"""Replies written together: sequences join and leave between passes, each under its own adapter of one base.

A pass brings the next token of every reply that is being written, and pieces of the prompts of those that have just
come: at most PREFILL tokens of them, so that a long prompt does not hold up the others. A reply waits while all slots
are taken; when too many wait, the next one is refused. Nothing that one reply does reaches another: rows are computed
apart, draw numbers of their own, and a row whose numbers are not finite ends alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import ModelError
from luthier.kernels.slots import Layout, Piece
from luthier.models.sampling import generator
from luthier.models.side_by_side import shares_of
from luthier.models.slots import Slots
from luthier.models.threads import fitting_threads
from luthier.models.virtual_slots import virtual_begun
from luthier.serve.asked import News
from luthier.serve.counts import Counts
from luthier.serve.draw import chances, next_tokens

if TYPE_CHECKING:
    from luthier.models.side_by_side import SideBySide
    from luthier.serve.asked import Chance, Reason
    from luthier.serve.sequence import Sequence

PREFILL = 512  # tokens of prompts in one pass: on two cores about the time of ten passes of 64 single tokens


class Full(Exception):
    """As many replies wait as may."""


class Closed(Exception):
    """No reply is begun any more."""


class Engine(threading.Thread):
    """Writes the replies of one base and its adapters, in a thread of its own.

    Args:
        side: The base's members; proven, in evaluation mode.
        places: Replies that are written at once.
        capacity: Tokens of prompt and reply that one may have.
        queue: Replies that may wait besides.

    Attributes:
        counts: What has happened, for `/metrics`.
        most: Replies that one request may ever have.
        virtual: Virtual tokens of each member, which its sequences begin with.

    Raises:
        ModelError: The slots are no longer than the virtual tokens.
    """

    def __init__(self, side: SideBySide, *, places: int, capacity: int, queue: int) -> None:
        super().__init__(name="luthier-engine", daemon=True)
        self.side, self.capacity, self.queue, self.most = side, capacity, queue, places + queue
        self.device: torch.device = side.trunk.device
        self.counts = Counts()
        self._slots = Slots(places, capacity)
        self._begun = [virtual_begun(member) for member in side.members]
        self.virtual = [0 if states is None else states[0][0].shape[1] for states in self._begun]
        if max(self.virtual) >= capacity:
            fix = "raise --max-model-len"
            raise ModelError("slots", f"{capacity} tokens, {max(self.virtual)} of them virtual", "more tokens", fix)
        self._free = list(range(places))[::-1]  # the lowest slots first: single tokens run over all below the highest
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._changed = threading.Condition()
        self._closing = False

    @torch.no_grad()
    def prepare(self) -> None:
        """Make the slots, with a pass of one token, before anybody asks.

        Raises:
            ModelError: They need more memory than there is.
        """
        layout = Layout([Piece(slot=0, begin=0, ids=[0])], self.device)
        try:
            with self._slots.passing(layout):
                self.side.logits(
                    layout.input_ids, layout.position_ids, layout.ends, shares_of(layout.pieces, self._members)
                )
        except (RuntimeError, MemoryError) as error:
            received = f"{self._slots.count} slots of {self.capacity} tokens: {str(error)[:200]}"
            fix = "lower --max-num-seqs or --max-model-len"
            raise ModelError(f"model {type(self.side.trunk).__name__}", received, fix=fix) from None
        self._slots.clear(0, 1)

    @property
    def _members(self) -> int:
        return len(self.side.members)

    # ------------------------------------------------------------------ from other threads

    def submit(self, sequences: list[Sequence]) -> None:
        """Begin replies as soon as there is room, all or none of them.

        Raises:
            Full: Too many wait.
            Closed: The engine ends.
        """
        with self._changed:
            if self._closing:
                raise Closed
            if len(self._waiting) + len(sequences) > self.queue + len(self._free):
                self.counts.refused += 1
                raise Full
            self._waiting.extend(sequences)
            self._changed.notify()

    def cancel(self, sequence: Sequence) -> None:
        """Nobody waits for it any more: its slot is free after the pass that is under way."""
        with self._changed:
            sequence.cancelled = True
            self._changed.notify()

    def load(self) -> tuple[int, int]:
        """Replies that are being written, and those that wait."""
        with self._changed:
            return len(self._running), len(self._waiting)

    @property
    def cache_bytes(self) -> int:
        """Memory of all slots, when they are full."""
        return self._slots.num_bytes

    def close(self) -> None:
        """End after the pass that is under way; what is not written by then is cancelled."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self.is_alive():
            self.join()

    # ------------------------------------------------------------------ the engine's own thread

    def run(self) -> None:
        """Pass after pass, until closed."""
        with torch.no_grad(), fitting_threads(self.side.trunk):
            while self._wait():
                self._drop()
                self._admit()
                if self._running:
                    self._pass()
        with self._changed:
            left = [*self._running, *self._waiting]
        for sequence in left:
            self._end(sequence, "cancelled")

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting or self._running)
            return not self._closing

    def _drop(self) -> None:
        """End what nobody waits for, or what has had its time."""
        now = time.monotonic()
        with self._changed:
            every = [*self._running, *self._waiting]
        for sequence in every:
            if sequence.cancelled:
                self._end(sequence, "cancelled")
            elif now >= sequence.until:
                self._end(sequence, "timeout")

    def _admit(self) -> None:
        with self._changed:
            while self._waiting and self._free:
                sequence = self._waiting.popleft()
                sequence.slot = self._free.pop()
                if (begun := self._begun[sequence.adapter]) is not None:
                    self._slots.put([sequence.slot], begun)
                if sequence.asked.temperature > 0:
                    sequence.draws = generator(sequence.asked.seed, sequence.asked.number, self.device)
                self._running.append(sequence)

    def _pass(self) -> None:
        """One forward pass, and a token for every sequence whose prompt is read."""
        chosen = self._choose()
        try:
            logits, rows = self._forward(chosen)
            fine = logits.max(-1).values.isfinite().tolist()
            asked = [sequence.asked for sequence in rows]
            tokens = next_tokens(logits, asked, [sequence.draws for sequence in rows])
            told = chances(logits, tokens, asked)
        except Exception as error:  # out of memory, a layer that fails: these replies end, the engine goes on
            logging.getLogger("luthier.serve").exception("a pass failed")
            for sequence, _ in chosen:
                self._end(sequence, "error", f"the pass failed: {str(error)[:200]}")
            return
        self.counts.passes += 1
        for sequence, good, token, chance in zip(rows, fine, tokens, told, strict=True):
            if good:
                self._take(sequence, token, chance)
            else:
                self._end(sequence, "error", "the model gives numbers that are not finite")

    def _choose(self) -> list[tuple[Sequence, int]]:
        """Who brings how many tokens, in the adapters' order."""
        left, found = PREFILL, []
        for sequence in self._running:
            rest = len(sequence.ids) - sequence.done
            count = rest if rest == 1 else min(rest, left)
            if count:
                found.append((sequence, count))
                left -= count if rest > 1 else 0
        return sorted(found, key=lambda pair: pair[0].adapter)

    def _forward(self, chosen: list[tuple[Sequence, int]]) -> tuple[torch.Tensor, list[Sequence]]:
        pieces = []
        for sequence, count in chosen:
            assert sequence.slot is not None
            ids = sequence.ids[sequence.done : sequence.done + count]
            begin = self.virtual[sequence.adapter] + sequence.done
            pieces.append(Piece(slot=sequence.slot, begin=begin, ids=ids, adapter=sequence.adapter))
        layout = Layout(pieces, self.device)
        shares = shares_of(pieces, self._members)
        with self._slots.passing(layout):
            logits = self.side.logits(layout.input_ids, layout.position_ids, layout.ends, shares)
        self.counts.prompt_tokens += sum(
            min(sequence.done + count, len(sequence.asked.ids)) - min(sequence.done, len(sequence.asked.ids))
            for sequence, count in chosen
        )
        for sequence, count in chosen:
            sequence.done += count
        ready = [place for place, (sequence, _) in enumerate(chosen) if sequence.done == len(sequence.ids)]
        return logits[ready], [chosen[place][0] for place in ready]

    def _take(self, sequence: Sequence, token: int, chance: Chance | None) -> None:
        """A token has come: the end, or more text."""
        if token in sequence.asked.ends:
            self._end(sequence, "stop")
            return
        if not sequence.written:
            self.counts.first_token(time.monotonic() - sequence.begun)
        sequence.ids.append(token)
        self.counts.reply_tokens += 1
        if chance is not None:
            sequence.chances.append(chance)
        text = sequence.writer.push(token)
        ended = sequence.writer.stopped or sequence.written >= sequence.asked.max_tokens
        if text:
            self._tell(sequence, text)
        if ended:
            self._end(sequence, "stop" if sequence.writer.stopped else "length")

    def _tell(self, sequence: Sequence, text: str, **words: Any) -> None:
        told, sequence.chances = tuple(sequence.chances), []
        sequence.tell(News(text=text, chances=told, tokens=sequence.written, **words))

    def _end(self, sequence: Sequence, reason: Reason, message: str = "") -> None:
        if sequence.slot is not None:
            self._slots.clear(sequence.slot, self.virtual[sequence.adapter] + sequence.done)
        with self._changed:
            if sequence.slot is None:
                self._waiting.remove(sequence)
            else:
                self._running.remove(sequence)
                self._free.append(sequence.slot)
                self._free.sort(reverse=True)
        self.counts.ended[reason] += 1
        self.counts.seconds += time.monotonic() - sequence.begun
        whole = reason in ("stop", "length")
        self._tell(sequence, sequence.writer.finish() if whole else "", reason=reason, message=message)
