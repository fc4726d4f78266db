# SPDX-License-Identifier: Apache-2.0
"""A file is one concept and a function one thought: 300 lines and 60 lines (a docstring costs a function nothing)."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SOURCES = [file for folder in ("src", "embedded", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 300, 60
VAGUE = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "managers"}


def test_files_are_short():
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES + TESTS
    }
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


def test_functions_are_short():
    long = {}
    for file in SOURCES:
        for name, lines in _functions(ast.parse(file.read_text(encoding="utf-8"))):
            if lines > FUNCTION_LINES:
                long[f"{file.relative_to(ROOT)}:{name}"] = lines
    assert long == {}


def test_names_say_what_is_inside():
    folders = {path for file in SOURCES for path in (file.with_suffix(""), *file.parents) if path.is_relative_to(ROOT)}
    assert sorted(str(path.relative_to(ROOT)) for path in folders if path.name.strip("_") in VAGUE) == []


def test_files_carry_their_licence():
    files = [file for file in SOURCES if file.read_text(encoding="utf-8").strip()]
    without = [file for file in files if not file.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier:")]
    assert [str(file.relative_to(ROOT)) for file in without] == []


def _functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            said = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            words = first.end_lineno - first.lineno + 1 if said and ast.get_docstring(node) else 0
            yield node.name, node.end_lineno - node.lineno + 1 - words
