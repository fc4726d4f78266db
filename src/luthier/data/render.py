# SPDX-License-Identifier: Apache-2.0
r"""Examples -> text and the characters of it that are scored.

A conversation is rendered once, by the tokenizer's own ``apply_chat_template``, so training sees what a server sends.
The scored spans follow from prefix rendering: the answer of turn i begins where ``messages[:i]`` with the generation
prompt ends, and ends where ``messages[:i + 1]`` ends, less the white space after its end-of-turn token::

    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n
    └──────── messages[:1] + generation prompt ───────────┘└── scored ─┘

That costs 2k + 1 renderings for k answers. So the text *around* the contents is learned once for each sequence of
roles, from a conversation of made-up contents, and a row whose one rendering equals that text with its contents set in
takes its spans from there: one rendering a row (25 us), and the same spans.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from luthier.core.types import Conversation, Message, Text
from luthier.data.faults import RowFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.types import Completion, Role
    from luthier.data.template import ChatTemplate
    from luthier.data.vocabulary import Tokenizer, Vocabulary

LossOn = Literal["assistant", "last", "all"]
Span = tuple[int, int]
CHANGES_EARLIER_TURNS = "the chat template renders a turn differently once others follow"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A text and what of it is trained.

    Attributes:
        text: The whole text.
        spans: Scored characters, from and to, in order and apart.
        templated: BOS and the like are in the text already; the tokenizer must add none.
        ends: The last span is the end of the example, so it must close with an end-of-turn token.
    """

    text: str
    spans: tuple[Span, ...]
    templated: bool
    ends: bool


@dataclass(frozen=True, slots=True)
class _Shape:
    """What surrounds the contents for one sequence of roles.

    Attributes:
        gaps: The texts before, between and after the n contents: n + 1 of them.
        marks: For each assistant turn: its index, the characters of the gap before it and of the gap after it
            that are part of its span.
    """

    gaps: tuple[str, ...]
    marks: tuple[tuple[int, int, int], ...]


class Renderer:
    """Renders conversations with one template, and remembers the shapes it has met.

    Args:
        tokenizer: Renders.
        vocabulary: Facts of the same tokenizer.
        template: The chat template.
        loss_on: ``assistant`` turns, the ``last`` one only, or ``all`` of the text.
        system: System prompt for conversations that have none.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocabulary: Vocabulary, template: ChatTemplate, loss_on: LossOn, system: str | None
    ) -> None:
        self.tokenizer, self.vocabulary, self.template = tokenizer, vocabulary, template
        self.loss_on, self.system = loss_on, system
        self._shapes: dict[tuple[Role, ...], _Shape | None] = {}

    def __call__(self, conversations: Sequence[Conversation]) -> list[Rendered | RowFault]:
        """Render many conversations; a fault stands in the place of each that cannot be."""
        chats = [self.messages(conversation) for conversation in conversations]
        return [self._one(chat, text) for chat, text in zip(chats, self._texts(chats), strict=True)]

    def messages(self, conversation: Conversation) -> tuple[Message, ...]:
        """Return the messages with the recipe's system prompt where there is none."""
        if self.system is None or conversation.messages[0].role == "system":
            return conversation.messages
        return (Message(role="system", content=self.system), *conversation.messages)

    def _one(self, chat: tuple[Message, ...], text: str | RowFault) -> Rendered | RowFault:
        if isinstance(text, RowFault):
            return text
        if self.loss_on == "all":
            return Rendered(text=text, spans=((0, len(text.rstrip())),), templated=True, ends=True)
        try:
            found = self._learned(chat, text) or self.prefixes(chat, text)
        except RowFault as fault:
            return fault
        wanted = found[-1:] if self.loss_on == "last" else found
        spans = tuple((start, end) for turn, start, end in wanted if chat[turn].scored)
        return Rendered(text=text, spans=spans, templated=True, ends=chat[-1].scored)

    def _learned(self, chat: tuple[Message, ...], text: str) -> list[tuple[int, int, int]]:
        """Take the spans from the shape of these roles; none where the text is not the shape with the contents."""
        roles = tuple(message.role for message in chat)
        if roles not in self._shapes:
            self._shapes[roles] = self._learn(roles)
        shape = self._shapes[roles]
        if shape is None:
            return []
        for contents in ([m.content for m in chat], [m.content.strip() for m in chat]):  # many templates strip
            pieces = [shape.gaps[0]]
            for content, gap in zip(contents, shape.gaps[1:], strict=True):
                pieces += [content, gap]
            if "".join(pieces) == text:
                ends = list(
                    accumulate(map(len, pieces))
                )  # ends[2 i] is where content i begins, ends[2 i + 1] where it ends
                return [
                    (turn, ends[2 * turn] - before, ends[2 * turn + 1] + after) for turn, before, after in shape.marks
                ]
        return []

    def _learn(self, roles: tuple[Role, ...]) -> _Shape | None:
        """Render made-up contents and see what stands around them; None where they are not found again in order."""
        probe = tuple(Message(role=role, content=f"Qz{number}vX") for number, role in enumerate(roles))
        text = self._texts([probe])[0]
        if isinstance(text, RowFault) or any(text.count(message.content) != 1 for message in probe):
            return None
        begins = [text.index(message.content) for message in probe]
        ends = [begin + len(message.content) for begin, message in zip(begins, probe, strict=True)]
        if begins != sorted(begins):
            return None
        try:
            spans = self.prefixes(probe, text)
        except RowFault:
            return None
        gaps = tuple(text[a:b] for a, b in zip([0, *ends], [*begins, len(text)], strict=True))
        marks = tuple((turn, begins[turn] - start, end - ends[turn]) for turn, start, end in spans)
        inside = all(
            0 <= before <= len(gaps[turn]) and 0 <= after <= len(gaps[turn + 1]) for turn, before, after in marks
        )
        return _Shape(gaps, marks) if inside else None

    def prefixes(self, chat: tuple[Message, ...], text: str) -> list[tuple[int, int, int]]:
        """Find the answers by rendering every prefix.

        Returns:
            Turn, first character and end of each answer; with ``loss_on: last`` of the last one only.

        Raises:
            RowFault: The rendering of a prefix is no prefix of the rendering.
        """
        turns = [number for number, message in enumerate(chat) if message.role == "assistant"]
        spans = []
        for turn in turns[-1:] if self.loss_on == "last" else turns:
            before = self._texts([chat[:turn]], add_generation_prompt=True)[0]
            until = text if turn + 1 == len(chat) else self._texts([chat[: turn + 1]])[0]
            for part in (before, until):
                if isinstance(part, RowFault):
                    raise part
            if not text.startswith(str(before)):
                raise RowFault(CHANGES_EARLIER_TURNS, f"turn {turn + 1}")
            spans.append((turn, len(str(before)), self._end(text, str(until), chat[turn].content, turn)))
        return spans

    def _end(self, text: str, until: str, content: str, turn: int) -> int:
        """Find where the turn that ``until`` ends with is over in ``text``."""
        shown = until.rstrip()
        if not text.startswith(shown):  # the end-of-turn token may be there only on the last turn
            while (bare := self._without_end(shown)) != shown:
                shown = bare
            if not text.startswith(shown):
                raise RowFault(CHANGES_EARLIER_TURNS, f"turn {turn + 1}")
        own_space = content[len(content.rstrip()) :]
        if own_space and shown.endswith(content.rstrip()) and text.startswith(shown + own_space):
            return len(shown) + len(own_space)
        return len(shown)

    def _without_end(self, text: str) -> str:
        for end in self.vocabulary.end_texts:
            if text.endswith(end):
                return text.removesuffix(end).rstrip()
        return text

    def _texts(self, chats: Sequence[Sequence[Message]], **options: bool) -> list[str | RowFault]:
        """Render all at once; where one fails, one by one."""
        plain: list[Any] = [[{"role": m.role, "content": m.content} for m in chat] for chat in chats]
        try:
            texts: list[str | RowFault] = self._apply(plain, options)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            if len(plain) == 1:
                return [RowFault("the chat template refuses the row", " ".join(str(error).split())[:200])]
            return [self._texts([chat], **options)[0] for chat in chats]
        return texts

    def _apply(self, plain: list[Any], options: dict[str, bool]) -> list[Any]:
        rendered = self.tokenizer.apply_chat_template(
            plain, chat_template=self.template.source, tokenize=False, **options
        )
        return list(rendered)


def raw(example: Completion | Text, loss_on: LossOn) -> Rendered:
    """Return a text as it stands; the tokenizer puts BOS before it where it does that on its own, and EOS closes it."""
    if isinstance(example, Text):
        return Rendered(text=example.text, spans=((0, len(example.text)),), templated=False, ends=True)
    text, start = example.prompt + example.completion, 0 if loss_on == "all" else len(example.prompt)
    return Rendered(text=text, spans=((start, len(text)),), templated=False, ends=True)
