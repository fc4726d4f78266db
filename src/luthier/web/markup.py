# SPDX-License-Identifier: Apache-2.0
"""HTML and SVG from Python, escaped unless it was made here; words in both languages of the page.

    tag("td", value, class_="n")      a text is escaped, a Markup stands as it is
    both("yes")                       <span lang="en" class="en">yes</span><span lang="zh" class="zh">是</span>
    told(entry)                       the same of a sentence of the study

The page holds both languages, and a style shows one of them: switching needs no script.
"""

from __future__ import annotations

import json
from functools import cache
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from luthier.study.said import LANGUAGES, in_language

if TYPE_CHECKING:
    from collections.abc import Mapping

_EMPTY = {"input", "meta", "link", "br", "circle", "line", "path", "polygon", "rect", "polyline"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Make an element.

    Args:
        name: Of the element.
        children: Texts, which are escaped, Markup, or lists of both; None and False are left out.
        attributes: `class_` is `class`, `aria_label` is `aria-label`; None and False are left out, True has no value.

    Example:
        >>> tag("p", "a < b", class_="lead", hidden=True)
        '<p class="lead" hidden>a &lt; b</p>'
    """
    words = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        word = key.rstrip("_").replace("_", "-")
        words.append(word if value is True else f'{word}="{escape(str(value))}"')
    start = " ".join([name, *words])
    if name in _EMPTY and not children:
        return Markup(f"<{start}/>")
    return Markup(f"<{start}>{joined(*children)}</{name}>")


def joined(*parts: Any) -> Markup:
    """Several pieces in a row.

    Example:
        >>> joined("<b>", [tag("br"), None, 3])
        '&lt;b&gt;<br/>3'
    """
    said: list[str] = []
    for part in parts:
        if part is None or part is False:
            continue
        if isinstance(part, list | tuple):
            said.append(joined(*part))
        else:
            said.append(part if isinstance(part, Markup) else escape(str(part)))
    return Markup("".join(said))


def asset(name: str) -> str:
    """A file that the page is made of."""
    return (resources.files("luthier.web") / "assets" / name).read_text(encoding="utf-8")


@cache
def dictionary(language: str) -> dict[str, str]:
    """All words of the page in one language."""
    words: dict[str, str] = json.loads(asset(f"words.{language}.json"))
    return words


def say(language: str, key: str, /, **values: Any) -> str:
    """One text in one language; values are put in as they are."""
    return dictionary(language)[key].format(**values)


def both(key: str, /, **values: Any) -> Markup:
    """One text in both languages, one of which is shown. A value may be Markup; all else is escaped."""
    put = {name: value if isinstance(value, Markup) else escape(str(value)) for name, value in values.items()}
    return joined(*(_spoken("span", code, dictionary(code)[key].format(**put)) for code in LANGUAGES))


def both_svg(key: str, /, **values: Any) -> Markup:
    """The same inside an SVG text."""
    put = {name: escape(str(value)) for name, value in values.items()}
    return joined(*(_spoken("tspan", code, dictionary(code)[key].format(**put)) for code in LANGUAGES))


def told(entry: str | Mapping[str, Any]) -> Markup:
    """A sentence that a study wrote, in both languages; what has no key, or one unknown here, stays as it is written.

    Args:
        entry: `{key, values, text}` as in study.json, or a text.
    """
    if isinstance(entry, str):
        return foreign(entry)
    try:
        texts = {code: in_language(entry, code) for code in LANGUAGES}
    except (KeyError, TypeError, AttributeError):  # of another version of Luthier, or changed by hand
        return foreign(str(entry.get("text", "")))
    return joined(*(_spoken("span", code, joined(*_coded(text))) for code, text in texts.items()))


def foreign(text: str) -> Markup:
    """A text that exists in one language: of an error, or of an older study. What stands in `backticks` is code.

    Example:
        >>> foreign("use `a < b`")
        '<span lang="en">use <code>a &lt; b</code></span>'
    """
    return tag("span", *_coded(text), lang="en")


def _coded(text: str) -> list[str]:
    """A text with what stands in backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one is left over: an apostrophe, or half a text
        return [text]
    return [tag("code", part) if n % 2 else part for n, part in enumerate(parts)]


def _spoken(name: str, language: str, words: str) -> Markup:
    return Markup(f'<{name} lang="{language}" class="{language}">{words}</{name}>')
