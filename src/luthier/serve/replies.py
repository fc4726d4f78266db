# SPDX-License-Identifier: Apache-2.0
"""Replies in OpenAI's forms: whole, or chunk by chunk."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from luthier.serve.asked import Chance

_HALF = "�"  # what decoders write for a part of a character


@dataclass(kw_only=True)
class Choice:
    """One reply while it comes in.

    Attributes:
        text: So far.
        chances: So far.
        reason: Why it ended.
        tokens: So far.
    """

    text: str = ""
    chances: list[Chance] = field(default_factory=list)
    reason: str | None = None
    tokens: int = 0


class Form:
    """How the replies to one request are told.

    Args:
        chat: Whether it is a conversation.
        model: The name that was asked.
        tokenizer: Its tokens are told as text.
        tells_chances: Whether log-probabilities are.
    """

    def __init__(self, *, chat: bool, model: str, tokenizer: PreTrainedTokenizerBase, tells_chances: bool) -> None:
        self.chat, self.model, self._tokenizer, self._tells = chat, model, tokenizer, tells_chances
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """All replies at once."""
        return self._head(chunk=False) | {
            "choices": [self._choice(place, choice) for place, choice in enumerate(choices)],
            "usage": usage(prompt_tokens, choices),
        }

    def begin(self, place: int) -> dict[str, Any] | None:
        """The first chunk of a reply, where it has one."""
        return self._chunk(place, {"delta": {"role": "assistant", "content": ""}}) if self.chat else None

    def piece(self, place: int, text: str, chances: Sequence[Chance], before: int) -> dict[str, Any]:
        """More of a reply; `before` are the characters that were told."""
        told = self._chances(chances, before) if self._tells else None
        if self.chat:
            return self._chunk(place, {"delta": {"content": text}, "logprobs": told})
        return self._chunk(place, {"text": text, "logprobs": told})

    def end(self, place: int, reason: str) -> dict[str, Any]:
        """A reply has ended."""
        return self._chunk(place, {"delta": {}} if self.chat else {"text": ""}, reason)

    def usage(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """The last chunk, where it is asked for."""
        return self._head(chunk=True) | {"choices": [], "usage": usage(prompt_tokens, choices)}

    def _head(self, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion" + (".chunk" if chunk else "")) if self.chat else "text_completion"
        return {"id": self._id, "object": kind, "created": self._created, "model": self.model}

    def _chunk(self, place: int, said: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return self._head(chunk=True) | {"choices": [{"index": place, "finish_reason": reason} | said]}

    def _choice(self, place: int, choice: Choice) -> dict[str, Any]:
        told = self._chances(choice.chances, 0) if self._tells else None
        said: dict[str, Any] = {"text": choice.text}
        if self.chat:
            said = {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
        return {"index": place, "finish_reason": choice.reason, "logprobs": told} | said

    def _chances(self, chances: Sequence[Chance], before: int) -> dict[str, Any]:
        if self.chat:
            return {"content": [self._token(one.token, one.logprob, one.top) for one in chances], "refusal": None}
        names = [self._name(one.token) for one in chances]
        offsets, at = [], before
        for name in names:
            offsets.append(at)
            at += len(name)
        return {
            "tokens": names,
            "token_logprobs": [one.logprob for one in chances],
            "top_logprobs": [self._by_name(one.top) for one in chances],
            "text_offset": offsets,
        }

    def _by_name(self, top: Sequence[tuple[int, float]]) -> dict[str, float]:
        found: dict[str, float] = {}
        for token, value in top:
            name = self._name(token)
            found[self._piece(token) if name in found else name] = value
        return found

    def _token(self, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> dict[str, Any]:
        return self._named(token, logprob) | {"top_logprobs": [self._named(*pair) for pair in top]}

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": self._name(token), "logprob": logprob, "bytes": None if _HALF in text else list(text.encode())}

    def _name(self, token: int) -> str:
        """Its text; of a part of a character, which has none, the vocabulary's word for it."""
        text = self._text(token)
        return self._piece(token) if _HALF in text else text

    def _text(self, token: int) -> str:
        text = self._tokenizer.decode([token])
        return text if isinstance(text, str) else text[0]

    def _piece(self, token: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(token))


def usage(prompt_tokens: int, choices: Sequence[Choice]) -> dict[str, int]:
    """Tokens that were read and written; the token that ends a reply is not counted."""
    written = sum(choice.tokens for choice in choices)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": written, "total_tokens": prompt_tokens + written}
