# SPDX-License-Identifier: Apache-2.0
"""What a reference says is kept on a disk that is full or read-only, and is computed by a process that is killed."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from tests.faults.test_disk import mounted
from tests.runs import bits, recipe_file, tree

import luthier
from luthier.core.home import home
from luthier.engine import reference


@pytest.fixture
def recipe(tiny_llama, tmp_path):
    rows = [
        {"instruction": f"Say {n}.", "chosen": f"{n} " * (n % 7), "rejected": f"No {n}."} for n in range(120) if n % 7
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.rmtree(home() / "references", ignore_errors=True)

    def make(name):
        asked = {"name": "dpo", "precompute_ref_log_probs": True}
        train = {"num_train_epochs": 1, "max_steps": 2}
        return tree(tiny_llama, tmp_path / "pairs.jsonl", tmp_path / name, objective=asked, train=train)

    return make


@pytest.fixture
def passes(monkeypatch):
    """Counts the reference's forward passes; Ctrl-C comes in the place of one, where a test says which."""
    found, real = SimpleNamespace(made=0, stop_at=0), reference.outputs

    def counted(model, forest):
        found.made += 1
        if found.made == found.stop_at:
            raise KeyboardInterrupt
        return real(model, forest)

    monkeypatch.setattr(reference, "outputs", counted)
    monkeypatch.setattr(reference, "GROUP", {"cpu": 64})
    return found


def test_a_stop_loses_nothing_that_was_computed(command, recipe, passes, tmp_path):
    whole, file = luthier.train(recipe("whole")), recipe_file(tmp_path, recipe("run"))
    all_of_them = passes.made
    shutil.rmtree(home() / "references")
    passes.made, passes.stop_at = 0, 4
    said = command("train", file, "--quiet")
    assert said.code == 130
    assert "stopped at once; what was saved before is whole; go on with: luthier train" in said.err
    assert "Traceback" not in said.err
    passes.made, passes.stop_at = 0, 0
    assert command("train", file, "--resume", "--quiet").code == 0
    assert passes.made == all_of_them - 3
    assert bits(tmp_path / "run") == bits(whole.folder)


def test_a_full_disk(command, recipe, passes, tmp_path):
    """The disk takes a part of a group; that group is computed again once there is room."""
    whole, file = luthier.train(recipe("whole")), recipe_file(tmp_path, recipe("run"))
    all_of_them, passes.made = passes.made, 0
    shutil.rmtree(home() / "references")
    with mounted(home() / "references", "-t", "tmpfs", "-o", "size=8k", "tmpfs"):
        said = command("train", file, "--quiet")
        shutil.copytree(home() / "references", tmp_path / "kept")
    assert said.code == 2
    assert "cannot be written (No space left on device); free some space, or set LUTHIER_HOME" in said.err
    assert "Traceback" not in said.err
    shutil.copytree(tmp_path / "kept", home() / "references", dirs_exist_ok=True)
    written, passes.made = passes.made - 1, 0
    assert command("train", file, "--resume", "--quiet").code == 0
    assert 0 < passes.made == all_of_them - written
    assert bits(tmp_path / "run") == bits(whole.folder)


def test_a_cache_that_can_only_be_read_is_read(command, recipe, passes, tmp_path):
    whole, file = luthier.train(recipe("whole")), recipe_file(tmp_path, recipe("run"))
    passes.made, kept = 0, home() / "references"
    with mounted(kept, "--bind", str(kept)):
        subprocess.run(["mount", "-o", "remount,ro,bind", kept], check=True)
        said = command("train", file, "--quiet")
        other = command("train", file, "model.dtype=bfloat16", f"output_dir={tmp_path / 'other'}", "--quiet")
        gc.collect()  # what failed holds files of the mount, in a cycle
    assert (said.code, passes.made) == (0, 0)
    assert bits(tmp_path / "run") == bits(whole.folder)
    assert other.code == 2
    assert "cannot be written (Read-only file system)" in other.err
