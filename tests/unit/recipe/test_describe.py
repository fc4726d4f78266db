# SPDX-License-Identifier: Apache-2.0
"""docs/recipe.md lists every key as the schema has it."""

from __future__ import annotations

from pathlib import Path

from luthier.recipe import describe

FILE = Path(__file__).parents[3] / "docs" / "recipe.md"


def test_the_document_is_fresh():
    text = FILE.read_text(encoding="utf-8")
    assert describe.renew(text) == text, "run: python -m luthier.recipe.describe docs/recipe.md"


def test_every_key_has_a_meaning():
    rows = [line for line in describe.tables().splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row for row in rows if row.endswith("|  |")] == []
