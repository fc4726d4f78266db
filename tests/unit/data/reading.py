# SPDX-License-Identifier: Apache-2.0
"""What tests of formats share: a row read by a format, and what became of it."""

from __future__ import annotations

from luthier.core.types import Conversation
from luthier.data.columns import choose


def read(row: dict, name: str = "auto", **columns: str):
    """Read one row as its file's only one."""
    reading = choose("rows.jsonl", name, columns, list(row))
    return reading.read(row, reading.columns)


def turns(example) -> list[tuple[str, str]]:
    assert isinstance(example, Conversation)
    return [(message.role, message.content) for message in example.messages]


def messages(*roles: str, **extra) -> dict:
    return {"messages": [{"role": role, "content": f"{role} {i}"} | extra for i, role in enumerate(roles)]}
