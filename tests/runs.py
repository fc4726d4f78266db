# SPDX-License-Identifier: Apache-2.0
"""What tests of whole runs share: a small recipe, the command line in and out of process, and the bits of a result."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.cli import main

CLOCK = {"seconds", "cpu_seconds", "tokens_per_second"}  # keys of metrics.jsonl that no two runs share


def tree(model: Path, rows: Path, output_dir: Path, /, **sections: Any) -> dict[str, Any]:
    """A recipe of four steps on the tiny model; keys of `sections` go over it, section by section."""
    small: dict[str, Any] = {
        "model": {"model_name_or_path": str(model), "dtype": "float32"},
        "data": {"train": str(rows), "max_length": 96},
        "method": {"name": "lora", "r": 4, "lora_dropout": 0.1},
        "optim": {"learning_rate": 1e-3},
        "train": {"max_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        "output_dir": str(output_dir),
    }
    for name, given in sections.items():
        whole = not isinstance(given, dict) or (name == "method" and "name" in given)
        small[name] = given if whole else small.get(name, {}) | given
    return small


def recipe_file(folder: Path, recipe: dict[str, Any]) -> Path:
    """The recipe as a file (JSON is YAML)."""
    file = folder / "recipe-of-the-test.yaml"
    file.write_text(json.dumps(recipe), encoding="utf-8")
    return file


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without their clock."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]


def bits(folder: Path) -> dict[str, Any]:
    """The result's files and the metrics: what must be equal of two runs."""
    files = [*folder.glob("adapter/*"), *folder.glob("model/*")]
    assert files, f"no result in {folder}"
    return {str(file.relative_to(folder)): file.read_bytes() for file in files} | {"metrics": metrics(folder)}


@dataclass(frozen=True)
class Said:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


class Command:
    """The command line, in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> Said:
        self.capsys.readouterr()
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = self.capsys.readouterr()
        return Said(code, out, err)


def start(*words: object, **how: Any) -> subprocess.Popen[str]:
    """The command line, in a process of its own."""
    command = [sys.executable, "-c", "from luthier.cli import main; main()", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


class Stopped(Exception):
    """Stands for the end of the process."""


def stop_before(step: int, recipe: dict[str, Any]) -> None:
    """Let a run end abruptly: what a kill after `step` steps leaves, without a process."""
    from luthier.engine import loop  # torch, which tests of messages do not need

    original = loop._one_step

    def one_step(work, state):
        if state.progress.step == step:
            raise Stopped
        original(work, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_one_step", one_step)
        with pytest.raises(Stopped):
            luthier.train(recipe)
