# SPDX-License-Identifier: Apache-2.0
"""`import luthier` and `--help` answer at once: they load neither torch nor transformers nor what drags them in."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from luthier.core import registry

HEAVY = {"torch", "transformers", "datasets", "pandas", "pyarrow", "peft", "trl", "accelerate", "tensorboard"}

HELP = """
import json, sys
from luthier.cli import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print("\\n" + json.dumps([code, sorted(sys.modules)]))
"""


def _run(script: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light():
    loaded = json.loads(_run("import json, sys, luthier, luthier.recipe; print(json.dumps(sorted(sys.modules)))"))
    assert HEAVY & set(loaded) == set()


@pytest.mark.parametrize("command", ["", *registry.entries("cli")])
def test_help_is_light(command):
    words = [command, "--help"] if command else ["--help"]
    said, _, last = _run(HELP, *words).strip().rpartition("\n")
    code, loaded = json.loads(last)
    assert code == 0, said
    assert HEAVY & set(loaded) == set()


def test_help_names_every_command():
    said = _run(HELP, "--help")
    assert [name for name in registry.entries("cli") if name not in said] == []
