# SPDX-License-Identifier: Apache-2.0
"""The page: one HTML file with everything in it, for a study or for one run; it needs no network and no script.

    page_of(gather(folder))         the report
    parts_of(gather(folder))        its sections, which the live page exchanges one by one

What a script may do, and that nothing else is loaded or run, stands in the page's own content security policy.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

from luthier.core.errors import RunFailed
from luthier.web.gather import Found, gather
from luthier.web.markup import LANGUAGES, Markup, asset, both, dictionary, joined, say, tag
from luthier.web.sections.against import cost, gradients, ranks
from luthier.web.sections.categories import categories, forgetting
from luthier.web.sections.curves import curves
from luthier.web.sections.ground import claims, differences, environment
from luthier.web.sections.progress import progress
from luthier.web.sections.table import scores
from luthier.web.sections.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NAME = "report.html"
THEMES = ("auto", "light", "dark")
_PARTS: dict[str, Callable[[Found], Markup]] = {
    "scores": scores,
    "cost": cost,
    "curves": curves,
    "ranks": ranks,
    "gradients": gradients,
    "categories": categories,
    "forgetting": forgetting,
    "claims": claims,
    "differences": differences,
    "environment": environment,
}
_OF_A_RUN = ("curves", "environment")
_LIVE_WORDS = ("live", "live_lost", "stop_sure", "stop_failed", "asked_to_stop")


def write_page(folder: Path, language: str | None = None) -> Path:
    """Write report.html into a study's folder or a run's; into a folder of studies, one each and one that names them.

    Args:
        folder: Whose.
        language: `en` or `zh`; None lets the page follow the reader's browser.

    Raises:
        UserError: It holds neither a study nor a run.
        RunFailed: The page cannot be written.
    """
    inner = sorted(path.parent for path in folder.glob("*/study.yaml"))
    if inner and not (folder / "study.yaml").exists() and not (folder / "recipe.yaml").exists():
        parts = [(path.name, gather(path)) for path in inner]
        for path, (_, found) in zip(inner, parts, strict=True):
            _write(path / NAME, page_of(found, language))
        return _write(folder / NAME, index_of(folder.name, parts, language))
    return _write(folder / NAME, page_of(gather(folder), language))


def parts_of(found: Found, *, live: bool = False) -> dict[str, Markup]:
    """Section -> what it holds, in the order of the page; empty where there is nothing to show."""
    made = {"verdict": verdict(found), "progress": progress(found, live=live)}
    made |= {name: part(found) for name, part in _PARTS.items() if not found.alone or name in _OF_A_RUN}
    return made | {"missing": _missing(found, made)}


def page_of(found: Found, language: str | None = None, *, token: str = "") -> str:
    """The whole page.

    Args:
        found: What it shows.
        language: The one it opens in; None follows the browser.
        token: For the live page: what a request to stop a run must carry. Empty for a page on disk.
    """
    parts = parts_of(found, live=bool(token))
    shown = {name: part for name, part in parts.items() if part or token}
    links = [
        tag("li", tag("a", both(f"title_{name}"), href=f"#{name}"), hidden=not part) for name, part in shown.items()
    ]
    sections = [
        tag("section", tag("h2", both(f"title_{name}"), id=f"h-{name}"), tag("div", part, class_="body"), id=name,
            aria_labelledby=f"h-{name}", hidden=not part)
        for name, part in shown.items()
    ]  # fmt: skip
    status = tag("p", both("live"), class_="live", id="live", role="status") if token else None
    head = [tag("h1", found.title), tag("p", _facts(found), class_="facts"), status]
    name = tag("span", both("contents"), class_="hush", id="nav-name")
    contents = tag("nav", name, tag("ul", links), aria_labelledby="nav-name")
    brand = both("page_run" if found.alone else "page_study")
    main = tag("main", sections, id="main")
    return _document(
        found.title, brand, [*head, contents], main, version=_version(found), language=language, token=token
    )


def index_of(title: str, parts: Sequence[tuple[str, Found]], language: str | None = None) -> str:
    """A page over several studies: the result of each, and the way to its page."""
    entries = [
        tag("section", tag("h2", tag("a", found.title, href=f"{name}/{NAME}"), id=f"h-{place}"), verdict(found),
            aria_labelledby=f"h-{place}")
        for place, (name, found) in enumerate(parts)
    ]  # fmt: skip
    top = [tag("h1", title), tag("p", both("index_lead"), class_="facts")]
    main = tag("main", entries, id="main")
    return _document(title, both("page_index"), top, main, version=_version(parts[0][1]), language=language, token="")


def _document(
    title: str,
    brand: Markup,
    top: Sequence[Markup | None],
    main: Markup,
    *,
    version: str,
    language: str | None,
    token: str,
) -> str:
    """The frame around the sections: policy, styles, switches, scripts."""
    scripts = [asset("page.js"), *([asset("live.js")] if token else [])]
    bar = tag("div", tag("span", brand, class_="brand"), _switches(language), class_="bar")
    skip = tag("a", both("skip"), href="#main", class_="skip")
    foot = tag("footer", both("footer", version=version))
    data = [tag("script", Markup(_live_words()), type="application/json", id="live-words")] if token else []
    sheet = tag("div", tag("header", bar, top), main, foot, class_="sheet")
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(scripts, live=bool(token))),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="luthier-token", content=token) if token else None,
        tag("title", title),
        tag("style", Markup(asset("page.css"))),
        tag("link", rel="icon", href="data:,") if not token else None,
    ]
    script = [tag("script", Markup(text)) for text in scripts]
    spoken = {"zh": "zh-CN"}.get(language or "en", "en")
    page = tag("html", tag("head", head), tag("body", skip, sheet, data, script), lang=spoken,
               data_lang=language or "auto")  # fmt: skip
    return f"<!doctype html>\n{page}\n"


def _switches(language: str | None) -> Markup:
    """Language and colours: buttons that work through the style sheet alone."""
    tongues = [
        tag("span", tag("input", type="radio", name="lang", value=code, id=f"lang-{code}",
                        checked=code == (language or "en")),
            tag("label", say(code, "name"), for_=f"lang-{code}", lang=code))
        for code in LANGUAGES
    ]  # fmt: skip
    themes = [
        tag("span", tag("input", type="radio", name="theme", value=theme, id=f"theme-{theme}", checked=theme == "auto"),
            tag("label", both(f"theme_{theme}"), for_=f"theme-{theme}"))
        for theme in THEMES
    ]  # fmt: skip
    return tag(
        "div",
        tag("fieldset", tag("legend", both("language")), tongues),
        tag("fieldset", tag("legend", both("theme")), themes),
        class_="switches",
    )


def _facts(found: Found) -> Markup:
    if found.alone:
        recipe = found.runs[0].recipe
        method = found.family(found.runs[0].variant)
        said = [recipe.get("model.model_name_or_path"), method, recipe.get("objective.name")]
        return joined(" · ".join(str(word) for word in said if word))
    suites = joined([[", " if n else "", name] for n, name in enumerate(found.suites)]) if found.suites else "–"
    return both(
        "facts", suite=suites, items=sum(found.suites.values()), variants=len(found.variants),
        seeds=len(found.seeds), runs=len(found.trained),
    )  # fmt: skip


def _missing(found: Found, made: dict[str, Markup]) -> Markup:
    """What the page would show if the files held it."""
    keys = [name for name in _PARTS if not made.get(name) and name != "environment"]
    if found.alone:
        return Markup("")
    names = [both(f"none_{key}") for key in keys]
    rows = found.rows.get(found.suite, [])
    if rows and not any(row.get("flops") for row in rows):
        names.append(both("none_flops"))
    if not names:
        return Markup("")
    return tag(
        "p", both("missing", names=joined([[both("semicolon") if n else "", one] for n, one in enumerate(names)]))
    )


def _version(found: Found) -> str:
    versions = (run.summary.get("versions") or {} for run in found.runs)
    return next((str(each["luthier"]) for each in versions if each.get("luthier")), "")


def _policy(scripts: Sequence[str], *, live: bool) -> str:
    """Nothing is loaded; the scripts of this page run and no others, whatever its texts hold."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    asks = "; connect-src 'self'" if live else ""
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}; base-uri 'none'{asks}"


def _live_words() -> str:
    told = {code: {key: dictionary(code)[key] for key in _LIVE_WORDS} for code in LANGUAGES}
    return json.dumps(told, ensure_ascii=False).replace("</", "<\\/")


def _write(path: Path, text: str) -> Path:
    writing = path.with_name(f"{path.name}.writing")
    try:
        writing.write_text(text, encoding="utf-8")
        writing.replace(path)
    except OSError as error:
        raise RunFailed(str(path), f"could not be written ({error.strerror})", "results are untouched") from None
    return path
