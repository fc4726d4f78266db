# SPDX-License-Identifier: Apache-2.0
"""docs/recipe.md lists every key as the schema has it, docs/entries.md every entry."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from luthier.core import registry
from luthier.recipe import describe

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", ["recipe.md", "entries.md"])
def test_the_document_is_fresh(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    assert describe.renew(text) == text, f"run: python -m luthier.recipe.describe docs/{name}"


def test_every_entry_and_its_keys_are_there():
    text = (DOCS / "entries.md").read_text(encoding="utf-8")
    for kind in ("methods", "objectives"):
        for name in registry.entries(kind):
            keys = registry.get(kind, name).Config.model_fields
            section = text.partition(f"### `{name}`\n")[2].partition("\n### ")[0]
            assert [key for key in keys if f"| `{key}` |" not in section] == [], name
    for kind in ("engine.optim", "data.formats", "data.templates", "engine.callbacks"):
        assert [name for name in registry.entries(kind) if f"| `{name}` |" not in text] == []


def test_every_key_has_a_meaning():
    rows = [line for line in describe.tables().splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row for row in rows if row.endswith("|  |")] == []


def test_a_list_of_so_many():
    class Config(BaseModel):
        score_range: tuple[float, int] = (0.0, 5)

    assert [key["values"] for key in describe.keys_of(Config)] == ["list of number and whole number"]
