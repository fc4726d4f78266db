# SPDX-License-Identifier: Apache-2.0
"""Escaping, and the page's words: the same keys and gaps in both languages, none missing, none left over."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import luthier.web
from luthier.web.markup import LANGUAGES, Markup, both, both_svg, dictionary, joined, tag

SOURCES = [
    path.read_text("utf-8") for path in Path(luthier.web.__file__).parent.rglob("*") if path.suffix in (".py", ".js")
]
HOSTILE = "</b><script>alert(1)</script>\"'&"


def test_texts_and_attributes_are_escaped():
    made = tag("p", HOSTILE, [HOSTILE, tag("b", HOSTILE)], title=HOSTILE)
    assert "<script" not in made
    assert "\"'" not in made
    assert made.count("&lt;script&gt;") == 4
    assert joined("<", Markup("<br/>"), None, False, 0) == "&lt;<br/>0"


def test_values_put_into_words_are_escaped():
    for made in (both("folder", path=HOSTILE), both_svg("folder", path=HOSTILE)):
        assert "<script" not in made
        assert made.count("&lt;script&gt;") == len(LANGUAGES)
    assert "<b>x</b>" in both("folder", path=tag("b", "x"))


def test_both_languages_have_the_same_keys_and_gaps():
    first, second = (dictionary(code) for code in LANGUAGES)
    assert list(first) == list(second)
    for key in first:
        assert _gaps(first[key]) == _gaps(second[key]), key
        assert first[key].strip(), key
        assert second[key].strip(), key


def test_every_chinese_text_is_chinese():
    same = {key for key, words in dictionary("zh").items() if not re.search(r"[\u3000-\u9fff\uff00-\uffef]", words)}
    assert same == {"fact_gpu"}


def test_every_word_is_used_and_every_used_word_is_there():
    text = "\n".join(SOURCES)
    keys = set(dictionary("en"))
    asked = set(re.findall(r"(?:both|both_svg|note)\(\s*\"(\w+)\"", text))
    assert asked - keys == set()
    starts = tuple(set(re.findall(r"f\"(\w+_)\{", text)))  # both(f"head_{key}")
    left_over = {key for key in keys if f'"{key}"' not in text and f".{key}" not in text and not key.startswith(starts)}
    assert left_over == set()


def _gaps(words: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(words) if name}
