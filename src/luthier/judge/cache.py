# SPDX-License-Identifier: Apache-2.0
"""Replies of judges by what was asked: written whole the moment they arrive, so that nothing is paid for twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from luthier.judge.lines import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Request:
    """What goes to a judge: the same request has the same reply."""

    model: str
    messages: tuple[Mapping[str, str], ...]
    parameters: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As the protocol has it."""
        return {"model": self.model, "messages": [dict(one) for one in self.messages], **self.parameters}

    @cached_property
    def key(self) -> str:
        """SHA-256 of all of it, in hexadecimal."""
        canonical = json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back.

    Attributes:
        text: Of the first choice.
        finish_reason: `stop`, or `length` where it was cut.
        tokens_in: As the endpoint counted them; 0 where it does not say.
        tokens_out: Likewise.
        time: Seconds since 1970.
    """

    text: str
    finish_reason: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    time: float = field(default=0.0, compare=False)


class Replies:
    """A folder of replies, one file each.

    Args:
        folder: Made when the first reply is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def get(self, request: Request) -> Reply | None:
        """The reply that is kept; None where there is none, or its file is of another request or damaged."""
        try:
            found = json.loads(self._file(request.key).read_text(encoding="utf-8"))
            fits = found["request"] == request.to_json() and isinstance(found["reply"]["text"], str)
            return Reply(**found["reply"]) if fits else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, request: Request, reply: Reply) -> None:
        """Keep a reply, whole or not at all.

        Raises:
            RunFailed: The disk is full, or may not be written.
        """
        tree = {"request": request.to_json(), "reply": vars(reply)}
        write_whole(self._file(request.key), json.dumps(tree, ensure_ascii=False))
