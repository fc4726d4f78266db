# SPDX-License-Identifier: Apache-2.0
"""`kill -9` at random instants: a resumed run has the bits of one that never stopped.

This is the short form of `benchmarks/kill_resume.py`, which does 20 instants on the embedded model. Packing,
evaluation, accumulation and a checkpoint at each step; dropout with LoRA; the last kill is aimed at a checkpoint.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_resume.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "dtype", "instants"), [("lora", "bfloat16", 3), ("full", "bfloat16", 2), ("full", "float32", 2)]
)
def test_kill(tiny_llama, alpaca_file, method, dtype, instants):
    words = ["--method", method, "--dtype", dtype, "--model", tiny_llama, "--rows", alpaca_file]
    words += ["--instants", instants, "--aimed", 1, "--steps", 6]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every bit is equal" in done.stdout
    assert done.stdout.count(" equal") == instants + 1 + 1  # each line, and the verdict
