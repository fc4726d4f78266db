# SPDX-License-Identifier: Apache-2.0
"""A suite: a JSONL file of items, asked greedily and judged exactly. The shipped ones have names.

A row holds what is asked (`prompt`; or `instruction` with an optional `input`; or `messages`), the `answer` (or
`output`), and optionally `check` (default `exact`), `category` and `group`.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, did_you_mean
from luthier.core.shipped import sets_folder
from luthier.core.types import ROLES, Message
from luthier.evaluate.exact import Item, Score, make_item, score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHIPPED = {
    "embedded": "test",
    "embedded-dev": "dev",
    "embedded-math": "math_test",
    "embedded-preference": "preference_test",
}
BATCH_SIZE = 100
MAX_NEW_TOKENS = 32  # the longest answer of the shipped suites has 17


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Items and where they came from.

    Attributes:
        name: What results are filed under.
        items: In the file's order.
        digest: Short hash of the file and the number of items: results of other content are not comparable.
    """

    name: str
    items: tuple[Item, ...]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's replies to a suite, judged.

    Attributes:
        suite: What was asked.
        replies: In the items' order.
        score: The share of right ones.
        seconds: Wall-clock of generation.
        batch_size: Items that were generated together: in bfloat16 a reply may turn on it (1 or 2 of 600 did).
    """

    suite: Suite
    replies: tuple[str, ...]
    score: Score
    seconds: float
    batch_size: int

    def to_json(self) -> dict[str, Any]:
        """The entry of `summary.json` under `evaluation`."""
        return {
            **self.score.to_json(),
            "digest": self.suite.digest,
            "seconds": self.seconds,
            "batch_size": self.batch_size,
        }

    def write(self, path: Path) -> None:
        """Write predictions as JSONL: one line an item with question, reply, answer and verdict."""
        lines = []
        for item, reply, right in zip(self.suite.items, self.replies, self.score.right, strict=True):
            asked = "\n".join(message.content for message in item.messages)
            row = {"prompt": asked, "reply": reply, "answer": item.answer, "check": item.check}
            marks = {"category": item.category, **({"group": item.group} if item.group else {}), "right": right}
            lines.append(json.dumps({**row, **marks}, ensure_ascii=False) + "\n")
        writing = path.with_name(f"{path.name}.writing")
        writing.write_text("".join(lines), encoding="utf-8")
        writing.replace(path)


def load_suite(name_or_path: str, limit: int | None = None) -> Suite:
    """Read a shipped suite by its name, or a JSONL file.

    Args:
        name_or_path: A name of :data:`SHIPPED`, or a path.
        limit: Only the first so many items; the suite's name then says so.

    Raises:
        DataError: There is no such suite, or a row cannot be used.
    """
    shipped = name_or_path in SHIPPED
    path = sets_folder() / f"{SHIPPED[name_or_path]}.jsonl" if shipped else Path(name_or_path).expanduser()
    name = name_or_path if shipped else path.stem
    try:
        raw = path.read_bytes()
        lines = raw.decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"suite {name_or_path}", "no such file", did_you_mean(name_or_path, SHIPPED)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"suite {path}", f"cannot be read ({error})", "a UTF-8 JSONL file") from None
    items = [_item(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise DataError(f"suite {path}", "no items", "at least one row")
    digest = hashlib.sha256(raw).hexdigest()[:12]
    if limit is not None and limit < len(items):
        name, items, digest = f"{name}-first-{limit}", items[:limit], f"{digest}:{limit}"
    return Suite(name=name, items=tuple(items), digest=digest)


def _item(line: str, where: str) -> Item:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(where, f"not JSON ({error})", "one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(where, f"holds {type(row).__name__}", "a JSON object")
    return make_item(row, _messages(row, where), where)


def _messages(row: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    if isinstance(row.get("messages"), list):
        messages = []
        for turn in row["messages"]:
            if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
                raise DataError(where, f"message {turn!r}", f"role (one of {', '.join(ROLES)}) and content, both texts")
            messages.append(Message(role=turn["role"], content=turn["content"]))
        while messages and messages[-1].role == "assistant":
            messages.pop()  # what the model is to say
        if messages:
            return tuple(messages)
    asked = row.get("prompt") or "\n".join(filter(None, (row.get("instruction"), row.get("input"))))
    if not isinstance(asked, str) or not asked:
        raise DataError(where, f"columns {', '.join(row)}", "prompt, or instruction (and input), or messages")
    return (Message(role="user", content=asked),)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: Suite,
    *,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    system: str | None = None,
) -> Evaluation:
    """Ask a model every item of a suite, greedily, and judge the replies.

    Args:
        model: With its method applied, or plain.
        tokenizer: With the chat template that the model was trained with.
        suite: What to ask.
        batch_size: Items generated at a time.
        max_new_tokens: Longest reply. One that fills it has not ended by itself, and is wrong.
        system: System prompt of items that have none (the recipe's `data.system`).
    """
    from luthier.models.generate import generate

    begun = time.perf_counter()
    asked = [_asked(item, system) for item in suite.items]
    replies = generate(model, tokenizer, asked, max_new_tokens=max_new_tokens, batch_size=batch_size)
    ended = [_has_ended(tokenizer, reply, max_new_tokens) for reply in replies]
    return Evaluation(
        suite=suite,
        replies=tuple(replies),
        score=score(replies, suite.items, ended),
        seconds=time.perf_counter() - begun,
        batch_size=batch_size,
    )


def _has_ended(tokenizer: PreTrainedTokenizerBase, reply: str, limit: int) -> bool:
    """Whether a reply stopped by itself, told by its length: generation gives no more than the text.

    The text may have a token less than was generated, where a space at its end was stripped.
    """
    return len(tokenizer(f" {reply}", add_special_tokens=False)["input_ids"]) < limit - 1


def _asked(item: Item, system: str | None) -> list[dict[str, str]]:
    turns = [{"role": message.role, "content": message.content} for message in item.messages]
    if system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    return turns
