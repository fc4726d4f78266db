# SPDX-License-Identifier: Apache-2.0
"""What the documents promise exists: links, commands, make targets, pins, and the tree in ARCHITECTURE.md."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import luthier
from luthier.core import registry

ROOT = Path(__file__).parents[2]
MAIN = ["README.md", "README.zh.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
DOCUMENTS = [ROOT / name for name in MAIN] + sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|(?:src|href)=\"([^\"]+)\"")
NAME = re.compile(r"(?:[\w.-]+/)*[\w.-]+(?:/|\.py)")


def _read(file: Path) -> str:
    assert file.is_file(), f"{file.relative_to(ROOT)} is missing"
    return file.read_text(encoding="utf-8")


def _shell(text: str) -> list[str]:
    """Return the lines of bash blocks, without prompts, comments and continuations."""
    blocks = [body for language, body in FENCE.findall(text) if language in ("bash", "sh", "console", "shell")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ").split(" #")[0] for line in lines if not line.lstrip().startswith("#")]


documents = pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))


@documents
def test_relative_links_exist(file):
    targets = [first or second for first, second in LINK.findall(FENCE.sub("", _read(file)))]
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:|#", target)]
    assert [target for target in local if not (file.parent / target).exists()] == []


@documents
def test_commands_exist(file):
    lines = _shell(_read(file))
    used = [name for line in lines for name in re.findall(r"(?:^|[\s/])luthier +([a-z][\w-]*)", line)]
    assert sorted(set(used) - set(registry.entries("cli"))) == []


@documents
def test_make_targets_exist(file):
    known = set(re.findall(r"^([a-z][\w-]*):", _read(ROOT / "Makefile"), re.MULTILINE))
    used = [name for line in _shell(_read(file)) for name in re.findall(r"(?:^|&& *)make +([a-z][\w-]*)", line)]
    assert sorted(set(used) - known) == []


def test_architecture_names_every_file():
    """The tree stands in a fenced block; `folder/` opens a folder, deeper lines and the rest of its line are inside."""
    named = _tree(_read(ROOT / "ARCHITECTURE.md"))
    source = ROOT / "src" / "luthier"
    files = {str(file.relative_to(ROOT / "src")) for file in source.rglob("*.py") if file.name != "__init__.py"}
    assert sorted(files - named) == [], "not named in ARCHITECTURE.md's tree"
    gone = {name for name in named if name.startswith("luthier/") and name.endswith(".py")} - files
    assert sorted(name for name in gone if not name.endswith("__init__.py")) == [], "named there, but gone"


def _tree(text: str) -> set[str]:
    """Read the files that a drawn tree names, as paths from `luthier/`.

    A line is any number of names (`a.py b.py`, also with commas or dots between them) and then words about them.
    """
    blocks = [body for _, body in FENCE.findall(text) if "luthier/" in body]
    assert blocks, "no fenced tree with luthier/ in it"
    found: set[str] = set()
    for line in "\n".join(blocks).splitlines():
        start = re.match(r"[\s│├└─|`+-]*", line).end()
        if not start:
            open_at: list[tuple[int, str]] = []  # the folders that this line is inside of, with their columns
        open_at = [(column, folder) for column, folder in open_at if column < start]
        for word in re.split(r"[\s,·]+", line[start:]):
            if not NAME.fullmatch(word):
                break
            path = (open_at[-1][1] if open_at else "") + word
            if path.endswith("/"):
                open_at.append((start, path))
            else:
                found.add(path[path.find("luthier/") :] if "luthier/" in path else path)
    return found


def test_the_tree_is_read():
    drawn = """```
src/luthier/
├── core/      words, errors
│   ├── errors.py, types.py  what
│   └── data/formats/ alpaca.py
└── run.py     wires everything
tests/  unit/
```"""
    assert _tree(drawn) == {
        f"luthier/{name}" for name in "core/errors.py core/types.py core/data/formats/alpaca.py run.py".split()
    }


def test_constraints_pin_every_dependency():
    project = tomllib.loads(_read(ROOT / "pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    wanted = {
        _plain(re.split(r"[<>=!~\[; ]", line)[0]) for line in project["dependencies"] + extras["dev"] + extras["bench"]
    }
    lines = [line for line in _read(ROOT / "constraints.txt").splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    assert sorted(wanted - {_plain(line.split("==")[0]) for line in lines}) == []


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_changelog_knows_this_version():
    assert luthier.__version__ in _read(ROOT / "CHANGELOG.md")
