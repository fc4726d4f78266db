# SPDX-License-Identifier: Apache-2.0
"""A conversation with one run, or with several that are told the same: each goes on with its own replies."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luthier.core.errors import UserError
from luthier.models.generate import encode_prompt
from luthier.serve.asked import Asked, News

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luthier.serve.sequence import Sequence
    from luthier.serve.shelf import Served

HELP = "/reset begins again · /system TEXT says who the model is, /system alone takes it back · /help · /quit"


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How replies are written; see `models.generate`.

    Attributes:
        max_new_tokens: Longest reply.
        temperature: 0 takes the likeliest token each time.
        top_p: Draw only from the likeliest tokens that have this probability together.
        seed: Of the draws; each turn draws numbers of its own.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Conversation:
    """What was said to one run, and what it said.

    Attributes:
        served: The run; its engine has been started.
        manner: How it writes.
        system: What it is told before everything.
        turns: Since the last reset.
    """

    served: Served
    manner: Manner
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    def ask(self, said: str) -> Reply:
        """Say something; the reply is being written.

        Raises:
            UserError: The conversation is too long, or the chat template cannot render it.
        """
        turns = [*self.turns, {"role": "user", "content": said}]
        first = [{"role": "system", "content": self.system}] if self.system else []
        ids = encode_prompt(self.served.tokenizer, [*first, *turns], len(self.turns) // 2, raw=False)
        left = self.served.capacity - len(ids)
        if left < 1:
            received = f"{len(ids)} tokens of conversation; {self.served.name} takes {self.served.capacity}"
            raise UserError("chat", received, "a shorter conversation", "/reset begins again")
        manner = self.manner
        asked = Asked(
            ids=ids,
            max_tokens=min(manner.max_new_tokens, left),
            temperature=manner.temperature,
            top_p=manner.top_p,
            seed=manner.seed,
            number=len(self.turns) // 2,
            ends=self.served.ends,
            seconds=float("inf"),
        )
        return Reply(self, turns, asked)

    def reset(self) -> None:
        """Forget what was said; the system prompt stays."""
        self.turns = []


class Reply:
    """A reply that is being written.

    Args:
        conversation: Goes on with it when it has ended.
        turns: What was said before it.
        asked: What is asked for.

    Attributes:
        text: What has come so far.
        cut: Whether it ended at its longest.
    """

    def __init__(self, conversation: Conversation, turns: list[dict[str, str]], asked: Asked) -> None:
        self._conversation, self._turns = conversation, turns
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self.text, self.cut = "", False
        self._sequence: Sequence = conversation.served.sequence(asked, self._news.put)
        conversation.served.engine.submit([self._sequence])

    def pieces(self) -> Iterator[str]:
        """Text as it comes; what Ctrl-C cuts short is kept as far as it came.

        Raises:
            UserError: It cannot be written.
        """
        try:
            news = self._news.get()
            while news.reason is None:
                self.text += news.text
                yield news.text
                news = self._news.get()
        except (KeyboardInterrupt, GeneratorExit):
            self.cut_short()
            self._keep()
            raise
        if news.reason in ("error", "timeout"):
            raise UserError(f"chat with {self._conversation.served.name}", news.message)
        self.text += news.text
        self.cut = news.reason == "length"
        self._keep()
        if news.text:
            yield news.text

    def cut_short(self) -> None:
        """Write no more of it."""
        self._conversation.served.engine.cancel(self._sequence)

    def _keep(self) -> None:
        self._conversation.turns = [*self._turns, {"role": "assistant", "content": self.text}]


def obey(line: str, conversations: list[Conversation]) -> str | None:
    """Do what a line that begins with / says.

    Returns:
        What to tell; None: the chat is over.
    """
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    if word in ("/quit", "/exit"):
        return None
    if word == "/reset":
        for one in conversations:
            one.reset()
        return "A new conversation."
    if word == "/system":
        for one in conversations:
            one.system = rest or None
            one.reset()
        return f"A new conversation, {'with this system prompt' if rest else 'without a system prompt'}."
    return HELP if word == "/help" else f"{word}: no such command. {HELP}"
