# SPDX-License-Identifier: Apache-2.0
"""The keys of a recipe as Markdown tables, made from the schema: `python -m luthier.recipe.describe docs/*.md`.

What stands between the two markers of a file is replaced: the recipe's own keys, or, where the marker names a kind of
entries (`methods`, `objectives`, `data.formats` ...), each entry with its help and its keys.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core import registry
from luthier.recipe.load import FOLDERS
from luthier.recipe.schema import Recipe

if TYPE_CHECKING:
    from pydantic import BaseModel

BEGIN, END = "<!-- keys: made by luthier.recipe.describe -->", "<!-- end of keys -->"
ENTRIES = re.compile(
    r"(<!-- keys of ([\w.]+): made by luthier\.recipe\.describe -->).*?(<!-- end of keys -->)", re.DOTALL
)
TABLED = (*FOLDERS.values(), "evaluate.kinds")  # kinds whose entries are shown with their keys
_BELOW = {  # what stands in lists of a section
    "data": [("A source in `data.train` and `data.eval`", "Source")],
    "optim": [("A group in `optim.groups`", "Group")],
}
_WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
_LIMITS = {"exclusiveMinimum": "> {}", "minimum": ">= {}", "exclusiveMaximum": "< {}", "maximum": "<= {}"}


def tables() -> str:
    """One table for each section."""
    schema = Recipe.model_json_schema()
    parts, single = [], {}
    for name, field in schema["properties"].items():
        section = _section(schema, field)
        if section is None or name in FOLDERS:
            single[name] = field
        else:
            parts.append(f"### `{name}`\n\n{section['description']}\n\n{_table(schema, section)}")
        for key, definition in _BELOW.get(name, ()):
            below = schema["$defs"][definition]
            parts.append(f"### {key}\n\n{below['description']}\n\n{_table(schema, below)}")
    parts.append(f"### The rest\n\n{_table(schema, {'properties': single})}")
    return "\n\n".join(parts)


def keys_of(config: type[BaseModel]) -> list[dict[str, Any]]:
    """Each key of an entry's configuration: `key, values, meaning`, and `default` unless it is required."""
    schema = config.model_json_schema()
    return [
        {"key": name, "values": _kind(schema, field), "meaning": field.get("description", "").replace("\n", " ")}
        | ({"default": field["default"]} if "default" in field else {})
        for name, field in schema.get("properties", {}).items()
    ]


def entry_tables(kind: str) -> str:
    """Every entry of a kind, those of plug-ins among them: its help, and a table of its keys where it has any."""
    known, parts = registry.entries(kind), []
    if kind not in TABLED:
        return "\n".join(
            ["| Name | |", "|---|---|", *(f"| `{name}` | {_cell(text)} |" for name, text in known.items())]
        )
    for name, text in known.items():
        schema = registry.get(kind, name).Config.model_json_schema()
        table = f"\n\n{_table(schema, schema)}" if schema.get("properties") else ""
        parts.append(f"### `{name}`\n\n{text}{table}")
    return "\n\n".join(parts)


def _table(schema: dict[str, Any], section: dict[str, Any]) -> str:
    rows = ["| Key | Default | Values | Meaning |", "|---|---|---|---|"]
    for name, field in section["properties"].items():
        default = f"`{json.dumps(field['default'])}`" if "default" in field else "required"
        meaning = _cell(field.get("description", ""))
        rows.append(f"| `{name}` | {default} | {_kind(schema, field)} | {meaning} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


def _kind(schema: dict[str, Any], field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(schema, kind) for kind in field["anyOf"])
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2]).lower()
    if "enum" in field or "const" in field:
        choices = field.get("enum", [field.get("const")])
        return ", ".join(f"`{choice if isinstance(choice, str) else json.dumps(choice)}`" for choice in choices)
    if "prefixItems" in field:  # so many values, each of its own kind
        return f"list of {len(field['prefixItems'])}: {', '.join(_kind(schema, one) for one in field['prefixItems'])}"
    if field["type"] == "array":
        return f"list of {_kind(schema, field['items'])}"
    if field["type"] == "object":
        return "mapping"
    limits = [words.format(field[limit]) for limit, words in _LIMITS.items() if limit in field]
    return " ".join([_WORDS.get(field["type"], "`null`"), *limits])


def _section(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any] | None:
    reference = field.get("$ref")
    found: dict[str, Any] | None = schema["$defs"][reference.rpartition("/")[2]] if reference else None
    return found


def renew(text: str) -> str:
    """Put fresh tables between the markers of a document."""
    if BEGIN in text:
        before, _, rest = text.partition(BEGIN)
        text = f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"
    return ENTRIES.sub(lambda found: f"{found[1]}\n\n{entry_tables(found[2])}\n\n{found[3]}", text)


if __name__ == "__main__":
    for _file in map(Path, sys.argv[1:]):
        _file.write_text(renew(_file.read_text(encoding="utf-8")), encoding="utf-8")
