# SPDX-License-Identifier: Apache-2.0
"""What names a suite: a shipped name, a file of rows, a YAML file, or the mapping that such a file holds.

    embedded                                 shipped
    questions.jsonl                          rows of questions with answers: the kind `exact_match`
    suites/arc_easy.yaml                     {kind: multiple_choice, data: ..., ...}
    {gsm8k: test.jsonl, num_fewshot: 8}      the same on one line; the first key names the kind
    {suite: mine.yaml, data: rows.jsonl}     a file with other values for some keys

Files of rows are looked for in the current folder, then beside the YAML file that names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from luthier.core import registry
from luthier.core.errors import DataError, RecipeError, did_you_mean
from luthier.core.shipped import PREFIX
from luthier.recipe.text import parse, read_yaml, said

if TYPE_CHECKING:
    from collections.abc import Mapping

KIND = "evaluate.kinds"
ROWS = "exact_match"  # the kind of a file of rows that is named alone
TASK = "task"  # likewise, for models that label, answer or compare
SHIPPED = {
    "embedded": "test",
    "embedded-dev": "dev",
    "embedded-math": "math_test",
    "embedded-preference": "preference_test",
}
YAML = (".yaml", ".yml")

Given = str | dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Named:
    """A suite before its rows are read.

    Attributes:
        name: What results are filed under.
        kind: An entry of `evaluate/kinds`.
        keys: The entry's own.
        where: What messages call it.
        folder: Of the YAML file, if it is one.
    """

    name: str
    kind: str
    keys: dict[str, Any]
    where: str
    folder: Path | None = None


def named(given: Given, kind: str = ROWS) -> Named:
    """Tell a suite's kind and keys.

    Args:
        given: As above; a text that begins with a brace is a mapping.
        kind: Of a file of rows that is named alone.

    Raises:
        DataError: There is no such suite.
        RecipeError: A mapping or a YAML file names no kind.

    Example:
        >>> named("embedded").keys, named({"perplexity": "book.txt"}).name
        ({'data': 'embedded:test'}, 'book-perplexity')
    """
    if isinstance(given, str) and given.lstrip().startswith("{"):
        given = _inline(given)
    if isinstance(given, dict):
        return _file(given["suite"], given) if "suite" in given else _mapping(given, "suite")
    if given in SHIPPED:
        return Named(name=given, kind=ROWS, keys={"data": f"{PREFIX}{SHIPPED[given]}"}, where=f"suite {given}")
    path = Path(given).expanduser()
    if path.suffix.lower() in YAML:
        return _file(given, {})
    if kind == ROWS and not given.startswith(PREFIX) and not path.exists():
        raise DataError(f"suite {given}", "no such file", did_you_mean(given, SHIPPED))
    return Named(name=_stem(given), kind=kind, keys={"data": given}, where=f"suite {given}")


def _file(place: Any, changed: Mapping[str, Any]) -> Named:
    """A YAML file, with some of its keys changed."""
    path = Path(str(place)).expanduser()
    if path.suffix.lower() not in YAML or not path.is_file():
        raise DataError(f"suite {place}", "no such file", "a YAML file", did_you_mean(str(place), SHIPPED))
    tree = read_yaml(path) | {key: value for key, value in changed.items() if key != "suite"}
    found = _mapping(tree, str(path))
    name = found.keys.get("name") or path.stem
    return Named(name=name, kind=found.kind, keys=found.keys, where=str(path), folder=path.parent)


def name_of(given: Given) -> str:
    """What results are filed under.

    Example:
        >>> name_of("data/mine.jsonl"), name_of("embedded"), name_of({"lm_eval": "arc_easy"})
        ('mine', 'embedded', 'arc_easy')
    """
    return named(given).name if not isinstance(given, str) or given.endswith(YAML) else _alone(given)


def _alone(given: str) -> str:
    return named(given).name if given.lstrip().startswith("{") else given if given in SHIPPED else _stem(given)


def _mapping(tree: Mapping[str, Any], where: str) -> Named:
    """`{kind: K, ...}`, or `{K: what it is about, ...}`."""
    keys, known = dict(tree), registry.entries(KIND)
    short = next((key for key in keys if key in known), None)
    if "kind" not in keys and short is None:
        allowed = f"kind: one of {', '.join(known)}"
        raise RecipeError(where, f"no kind among {', '.join(map(str, keys)) or 'no keys'}", allowed, "add it")
    if "kind" in keys:
        kind = str(keys.pop("kind"))
        main = getattr(registry.get(KIND, kind, f"{where}.kind"), "MAIN", "data")
    else:
        assert short is not None
        kind = short
        main = getattr(registry.get(KIND, kind), "MAIN", "data")
        if main in keys:
            received = f"{kind}: and {main}: as well"
            raise RecipeError(where, received, f"one of them: {kind}: {main.upper()} is short for both", "remove one")
        keys[main] = keys.pop(kind)
    about = keys.get(main)
    stem = _stem(str(about.get("path", "")) if isinstance(about, dict) else str(about))
    name = keys.get("name") or (stem if main != "data" else f"{stem}-{kind}")
    if not isinstance(name, str) or "/" in name:
        raise RecipeError(f"{where}.name", f"received {said(name)}", "a text without a slash: files are named after it")
    return Named(name=name, kind=kind, keys=keys, where=where)


def _inline(word: str) -> dict[str, Any]:
    try:
        tree = parse(word)
    except yaml.YAMLError as error:
        raise RecipeError("suite", f"{word!r} is no YAML ({' '.join(str(error).split())})", "a mapping") from None
    if not isinstance(tree, dict):
        raise RecipeError("suite", f"received {said(tree)}", "a mapping such as {gsm8k: test.jsonl}")
    return tree


def _stem(path: str) -> str:
    name = Path(path.replace(":", "-")).name
    return name.removesuffix(".gz").rpartition(".")[0] or name
