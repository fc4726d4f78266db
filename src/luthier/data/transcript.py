# SPDX-License-Identifier: Apache-2.0
"""Dialogues written as one text, "Human: ... Assistant: ...", as in hh-rlhf: back to messages."""

from __future__ import annotations

import re

from luthier.core.types import Message

SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def messages_of_transcript(text: str) -> list[Message] | None:
    r"""Split a transcript at its speakers; white space around what they say is not part of it.

    Args:
        text: A dialogue that begins with a human.

    Returns:
        The messages, also empty ones, or None where the text is no transcript.

    Example:
        >>> [m.content for m in messages_of_transcript("\n\nHuman: Hi\n\nAssistant: Hello!") or ()]
        ['Hi', 'Hello!']
        >>> messages_of_transcript("Hi")
    """
    pieces = SPEAKER.split(text)
    if len(pieces) < 3 or pieces[0].strip() or pieces[1] != "Human":
        return None
    return [
        Message(role="user" if speaker == "Human" else "assistant", content=said.strip())
        for speaker, said in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
