# SPDX-License-Identifier: Apache-2.0
"""A full or read-only disk: exit code 1 (2 before training), a message that names the file, and what was good stays so.

A limit on the size of files fails a write as a full disk does (EFBIG for ENOSPC), at a place that a test can choose;
one test fills a real one.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.runs import bits, recipe_file, stop_before, tree

import luthier
from luthier.engine import checkpoint


@contextmanager
def full_at(size: int):
    """Inside, no file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # Python ignores the signal, so the write fails
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def mounted(folder: Path, *words: str):
    """Inside, something is mounted on a folder; only root may do that."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() or subprocess.run(["mount", *words, folder], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def recipe(tiny_llama, alpaca_file, tmp_path):
    def make(name="run", **sections):
        train = {"max_steps": 6, "save_steps": 2, "save_total_limit": None} | sections.pop("train", {})
        return tree(tiny_llama, alpaca_file, tmp_path / name, train=train, **sections)

    return make


@pytest.fixture
def whole(recipe):
    return luthier.train(recipe("whole")).folder  # and the data's cache is filled


def test_at_a_checkpoint(command, recipe, whole, tmp_path):
    run, file = tmp_path / "run", recipe_file(tmp_path, recipe())
    stop_before(5, recipe())
    size = (whole / "checkpoints/step-6/optimizer.safetensors").stat().st_size
    with full_at(size - 1):
        said = command("train", file, "--resume", "--quiet")
    assert said.code == 1
    assert f"error: checkpoint {run}/checkpoints/step-6: could not be written (" in said.err
    assert "checkpoints written before are untouched; free some space and go on with --resume" in said.err
    assert "Traceback" not in said.err
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step-2", "step-4"}
    assert not any(checkpoint.fault_of(path) for path in (run / "checkpoints").iterdir())
    assert not (run / "adapter").exists()
    assert command("train", file, "--resume", "--quiet").code == 0
    assert bits(run) == bits(whole)


def test_at_metrics(command, recipe, whole, tmp_path):
    run, file = tmp_path / "run", recipe_file(tmp_path, recipe(train={"max_steps": 40, "save_steps": 0}))
    with full_at(4096):
        said = command("train", file, "--quiet")
    assert said.code == 1
    assert f"error: {run}/metrics.jsonl: could not be written (File too large)" in said.err
    assert (run / "metrics.jsonl").stat().st_size == 4096, "the last line is cut in half"
    assert command("train", file, "--resume", "--quiet").code == 0
    luthier.train(recipe("again", train={"max_steps": 40, "save_steps": 0}))
    assert bits(run) == bits(tmp_path / "again")


def test_at_the_result(command, recipe, whole, tiny_llama, tmp_path):
    """The chat template is made the largest file of all, so that everything but it can be written."""
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    template = model / "chat_template.jinja"
    template.write_text("{#" + 20_000 * " " + "#}" + template.read_text(encoding="utf-8"), encoding="utf-8")
    small = recipe(method={"name": "lora", "r": 1, "target_modules": ["q_proj"]})
    small["model"] |= {"model_name_or_path": str(model)}
    run, file = tmp_path / "run", recipe_file(tmp_path, small)
    command("train", file, "--dry-run")  # fills the data's cache
    with full_at(20_000):
        said = command("train", file, "--quiet")
    assert said.code == 1
    assert f"error: {run}/adapter: could not be written (" in said.err
    assert not (run / "adapter").exists(), "half a result is none"
    assert not list(run.glob(".writing-*"))
    assert checkpoint.newest_whole(run / "checkpoints").name == "step-6"
    assert command("train", file, "--resume", "--quiet").code == 0
    luthier.train(small | {"output_dir": str(tmp_path / "again")})
    assert bits(run) == bits(tmp_path / "again")


@pytest.mark.parametrize("name", ["recipe.yaml", "summary.json"])
def test_at_small_files(command, recipe, whole, tmp_path, monkeypatch, name):
    run, file = tmp_path / "run", recipe_file(tmp_path, recipe())
    replace = Path.replace

    def fails(self, target):
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails)
        said = command("train", file, "--quiet")
    assert said.code == 1
    assert f"error: {run}/{name}: could not be written (No space left on device)" in said.err
    assert not list(run.glob(".writing-*"))
    assert command("train", file, "--resume", "--quiet").code == 0
    assert bits(run) == bits(whole)


def test_a_disk_that_is_really_full(command, recipe, whole, tmp_path):
    run, file = tmp_path / "disk" / "run", recipe_file(tmp_path, recipe("disk/run"))
    sizes = sum(f.stat().st_size for f in whole.glob("checkpoints/step-6/*"))
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={int(2.6 * sizes)}", "tmpfs"):
        said = command("train", file, "--quiet")
        assert said.code == 1
        assert f"error: checkpoint {run}/checkpoints/step-6: could not be written (" in said.err
        assert "No space left on device" in said.err
        left = sorted((run / "checkpoints").iterdir())
        assert [path.name for path in left] == ["step-2", "step-4"]
        assert not any(checkpoint.fault_of(path) for path in left)
        shutil.rmtree(left[0])  # room is made
        said = command("train", file, "train.save_total_limit=1", "--resume", "--quiet")
        assert bits(run) == bits(whole) if said.code == 0 else "No space left" in said.err


def test_a_read_only_folder(command, recipe, whole, tmp_path):
    run, file = tmp_path / "disk" / "run", recipe_file(tmp_path, recipe("disk/run"))
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "ro", "tmpfs"):
        said = command("train", file, "--quiet")
    assert said.code == 2
    assert f"error: output_dir: {run} cannot be written (Read-only file system); a folder that can be w" in said.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(command, recipe, tmp_path):
    (tmp_path / "run").mkdir(mode=0o555)
    said = command("train", recipe_file(tmp_path, recipe()), "--quiet")
    assert said.code == 2
    assert "cannot be written (Permission denied)" in said.err
