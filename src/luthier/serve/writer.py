# SPDX-License-Identifier: Apache-2.0
"""Tokens as they come -> text that can be shown at once: whole characters, no part of a stop string, no blanks around.

What all pieces make together is what the tokenizer decodes from all tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

_HALF = "�"  # what decoders write for the first bytes of a character that is not whole


class Writer:
    """The text of one reply.

    Args:
        tokenizer: Decodes; special tokens are left out.
        stop: Strings that end the reply.
        strip: Whether the blanks around the reply are left out.

    Attributes:
        stopped: Whether a stop string has come.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), strip: bool = True) -> None:
        self._tokenizer, self._stop, self._strip = tokenizer, tuple(stop), strip
        self._ids: list[int] = []
        self._begun = self._read = 0  # tokens before: out of sight; between: shown, and what the next ones depend on
        self._text = ""  # all that is decoded, as it is
        self._shown = 0  # characters of it that were given
        self.stopped = False

    def push(self, token: int) -> str:
        """What can be shown when this token has come."""
        self._ids.append(token)
        # Some tokens take on another form behind others, so the last ones are decoded with them; never all of them,
        # which would cost a long reply the square of its length.
        before = self._decode(self._ids[self._begun : self._read])
        after = self._decode(self._ids[self._begun :])
        if len(after) > len(before) and not after.endswith(_HALF):
            self._text += after[len(before) :]
            self._begun, self._read = self._read, len(self._ids)
        return self._show(last=False)

    def finish(self) -> str:
        """The rest, when no token comes any more."""
        whole = self._decode(self._ids)
        if whole.startswith(self._text):
            self._text = whole
        return "" if self.stopped else self._show(last=True)

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text if isinstance(text, str) else text[0]

    def _show(self, last: bool) -> str:
        end = len(self._text)
        longest = max(map(len, self._stop), default=0)
        searched = max(0, self._shown - longest)
        found = [place for stop in self._stop if (place := self._text.find(stop, searched)) >= self._shown]
        if found:
            end, self.stopped = min(found), True
        elif not last:
            end -= self._begins_a_stop()
        if self._strip:
            end = len(self._text[:end].rstrip())
            if not self._shown:
                self._shown = min(end, len(self._text) - len(self._text.lstrip()))
        given = self._text[self._shown : end]
        self._shown = max(self._shown, end)
        return given

    def _begins_a_stop(self) -> int:
        """Characters at the end of the text that a stop string may begin with."""
        longest = max(map(len, self._stop), default=0)
        for count in range(min(longest - 1, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-count:]) for stop in self._stop):
                return count
        return 0
