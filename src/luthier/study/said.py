# SPDX-License-Identifier: Apache-2.0
"""Sentences that a study says of its numbers: a key and values, which templates turn into English or Chinese.

    said("ranks_gained", method="LoRA", low=4, high=16, number="+0.020 [+0.003, +0.037]")

is its English text, and remembers what it was made from. The templates stand in sentences.en.json and
sentences.zh.json, with the same keys and the same gaps. A gap's value is a name or number as it is to be read, a
sentence, or a list of either; what follows the colon of a gap joins a list (`{names:, }`), and `Aa` begins with a
capital.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

LANGUAGES = ("en", "zh")
_CAPITAL = "Aa"
Value = str | int | Sequence[Any]


class Said(str):
    """An English sentence that knows its key and its values, and so its form in any other language.

    Attributes:
        key: Of its template.
        values: Of the template's gaps.
    """

    key: str
    values: Mapping[str, Value]

    def __new__(cls, key: str, values: Mapping[str, Value]) -> Said:
        """Write its English; see :func:`said`."""
        made = super().__new__(cls, _filled(key, values, "en"))
        made.key, made.values = key, dict(values)
        return made

    def __reduce__(self) -> tuple[Any, ...]:  # a text's own way would take the English for a key
        return Said, (self.key, self.values)


def said(key: str, /, **values: Value) -> Said:
    """A sentence from its template.

    Args:
        key: Of the template.
        values: Of its gaps.

    Raises:
        KeyError: There is no such template, or a gap has no value.

    Example:
        >>> line = said("against", against="r4", parts=[said("against_better", names=["r8", "full"])])
        >>> line
        'Against r4: better: r8, full.'
        >>> in_language(as_data(line), "zh")
        '与 r4 相比：更高：r8、full。'
    """
    return Said(key, values)


def as_data(line: str) -> Any:
    """A sentence as data: `{key, values, text}`; what was not made from a template stays the text that it is."""
    return {**_data(line), "text": str(line)} if isinstance(line, Said) else line


def in_language(entry: Mapping[str, Any], language: str) -> str:
    """The text of a sentence that was written as data.

    Args:
        entry: With `key` and `values`.
        language: One of :data:`LANGUAGES`.

    Raises:
        KeyError: There is no such template, or a gap has no value.
    """
    return _filled(entry["key"], entry["values"], language)


@cache
def templates(language: str) -> dict[str, str]:
    """All templates of a language."""
    path = resources.files("luthier.study") / f"sentences.{language}.json"
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _filled(key: str, values: Mapping[str, Any], language: str) -> str:
    return templates(language)[key].format(**{name: _Gap(value, language) for name, value in values.items()})


class _Gap:
    """A value on its way into a template, which says with its format how it is written."""

    def __init__(self, value: Any, language: str) -> None:
        self.value, self.language = value, language

    def __format__(self, how: str) -> str:
        if isinstance(self.value, list | tuple):
            return how.join(format(_Gap(value, self.language), "") for value in self.value)
        text = self._text()
        return text[:1].upper() + text[1:] if how == _CAPITAL else text

    def _text(self) -> str:
        if isinstance(self.value, Said):
            return _filled(self.value.key, self.value.values, self.language)
        if isinstance(self.value, Mapping):
            return in_language(self.value, self.language)
        return str(self.value)


def _data(value: Any) -> Any:
    if isinstance(value, Said):
        return {"key": value.key, "values": {name: _data(inner) for name, inner in value.values.items()}}
    return [_data(inner) for inner in value] if isinstance(value, list | tuple) else value
