# SPDX-License-Identifier: Apache-2.0
"""The keys of a recipe as Markdown tables, made from the schema: `python -m luthier.recipe.describe docs/recipe.md`.

What stands between the two markers of the file is replaced.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from luthier.recipe.load import FOLDERS
from luthier.recipe.schema import Recipe

BEGIN, END = "<!-- keys: made by luthier.recipe.describe -->", "<!-- end of keys -->"
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
    source = schema["$defs"]["Source"]
    parts.insert(
        2, f"### A source in `data.train` and `data.eval`\n\n{source['description']}\n\n{_table(schema, source)}"
    )
    parts.append(f"### The rest\n\n{_table(schema, {'properties': single})}")
    return "\n\n".join(parts)


def _table(schema: dict[str, Any], section: dict[str, Any]) -> str:
    rows = ["| Key | Default | Values | Meaning |", "|---|---|---|---|"]
    for name, field in section["properties"].items():
        default = f"`{json.dumps(field['default'])}`" if "default" in field else "required"
        meaning = field.get("description", "").replace("\n", " ").replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {_kind(schema, field)} | {meaning} |")
    return "\n".join(rows)


def _kind(schema: dict[str, Any], field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(schema, kind) for kind in field["anyOf"])
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2]).lower()
    if "enum" in field or "const" in field:
        return ", ".join(f"`{choice}`" for choice in field.get("enum", [field.get("const")]))
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
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    for _file in map(Path, sys.argv[1:]):
        _file.write_text(renew(_file.read_text(encoding="utf-8")), encoding="utf-8")
