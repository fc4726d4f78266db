# SPDX-License-Identifier: Apache-2.0
"""YAML as recipes use it: read strictly, written so that it reads back as the same tree.

Departures from PyYAML: `2e-4` is a number (YAML 1.2; PyYAML takes it for text), `2024-01-01` is text (a file's name, no
recipe has dates), a key `on` is text (PyYAML takes it for true), and a key that stands twice in a mapping is an error
(PyYAML keeps the last one in silence).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from luthier.core.errors import RecipeError, did_you_mean

_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """Reads `2e-4` as a number and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping from its node."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} stands twice", key.start_mark)
            seen.add(name)
            if key.tag.endswith(":bool"):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader would take for a number, and writes line breaks as escapes."""

    def text(self, value: str) -> yaml.ScalarNode:
        """Represent text."""
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.text)

for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in _kind.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse(text: str) -> Any:
    """Read YAML text.

    Raises:
        yaml.YAMLError: It is none.

    Example:
        >>> parse("{learning_rate: 2e-4, packing: true}")
        {'learning_rate': 0.0002, 'packing': True}
    """
    return yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader


def one_line(value: Any) -> str:
    """Write a value as YAML on one line.

    Example:
        >>> one_line(1e-8), one_line("2e-4"), one_line({"down_proj": 64})
        ('1.0e-08', "'2e-4'", '{down_proj: 64}')
    """
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=2**31, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        RecipeError: The file is missing, unreadable, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        tree = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(str(path), "no such file", "the path of a YAML recipe", _neighbour(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(path), f"cannot be read ({error})", "a UTF-8 YAML file") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(str(path), f"is not YAML ({reason})", fix="mend the line named") from None
    if not isinstance(tree, dict):
        raise RecipeError(str(path), f"holds {said(tree)}", "a mapping of sections", "see recipes/ for examples")
    return tree


def said(value: Any) -> str:
    """Show a value and its kind in the words of YAML.

    Example:
        >>> said(True), said("x"), said(None)
        ('true (true or false)', "'x' (text)", 'nothing (null)')
    """
    if value is None:
        return "nothing (null)"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", dict: "mapping", list: "list"}
    text = one_line(value) if isinstance(value, bool) else repr(value)
    return f"{text[:80]}{'…' * (len(text) > 80)} ({words.get(type(value), type(value).__name__)})"


def _neighbour(path: Path) -> str:
    """Name the recipe beside a missing one that is spelt most like it."""
    names = [file.name for file in path.parent.glob("[!.]*.y*ml")] if path.parent.is_dir() else []
    nearest, _, _ = did_you_mean(path.name, names).partition("Known: ")
    return nearest.rstrip() or "`ls recipes` shows those that come with Luthier"
