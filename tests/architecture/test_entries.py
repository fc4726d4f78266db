# SPDX-License-Identifier: Apache-2.0
"""A file is an entry: its name is the key, its docstring's first line the help, and every shipped recipe loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import luthier
from luthier.core import registry
from luthier.recipe import load_recipe

ROOT = Path(__file__).parents[2]
KINDS = [
    "methods",
    "objectives",
    "data.formats",
    "data.templates",
    "engine.callbacks",
    "engine.optim",
    "evaluate.kinds",
    "export.forms",
    "cli",
]
RECIPES = sorted([*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("recipes/**/*.yml")])


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_says_what_it_is(kind):
    entries = registry.entries(kind)
    assert entries, f"luthier.{kind} has no entry"
    unsaid = {key: text for key, text in entries.items() if not re.fullmatch(r"\S.{8,117}[.?!…]", text)}
    assert unsaid == {}, "the docstring's first line must be one sentence of at most 119 characters"


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_plain_words(kind):
    assert [key for key in registry.entries(kind) if not re.fullmatch(r"[a-z][a-z0-9_]*", key)] == []


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_recipe_loads(file):
    assert load_recipe(file).fingerprint


def test_public_names_exist():
    assert {name for name in luthier.__all__ if getattr(luthier, name, None) is None} == set()
