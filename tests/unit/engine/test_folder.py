# SPDX-License-Identifier: Apache-2.0
"""The run folder: whose it is, and files that are whole or not there."""

from __future__ import annotations

import json
import os

import pytest

from luthier.core.errors import RecipeError, RunFailed
from luthier.engine import folder as run_folder
from luthier.recipe import load_recipe


@pytest.fixture
def resolved(tmp_path):
    tree = {"model": {"model_name_or_path": "embedded"}, "data": {"train": "x"}, "output_dir": str(tmp_path / "run")}
    return lambda *words: load_recipe(tree, words)


@pytest.fixture
def run(tmp_path, resolved):
    run = tmp_path / "run"
    run.mkdir()
    run_folder.write_text(run / "recipe.yaml", resolved().to_yaml())
    return run


def check(resolved, **words):
    return run_folder.check_folder(resolved, **{"resume": False, "overwrite": False} | words)


def test_a_new_folder(resolved, tmp_path):
    assert check(resolved()) == tmp_path / "run"
    assert not (tmp_path / "run").exists(), "looking makes nothing"


def test_a_folder_with_other_things(resolved, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert check(resolved())


def test_a_run(resolved, run):
    with pytest.raises(RecipeError, match="holds a run already"):
        check(resolved())
    assert check(resolved(), resume=True) == run
    assert check(resolved(), overwrite=True) == run
    with pytest.raises(RecipeError, match="a run of another recipe"):
        check(resolved("seed=1"), resume=True)
    assert check(resolved("seed=1"), overwrite=True) == run


def test_clear_leaves_what_no_run_wrote(resolved, run):
    for name in ("adapter", "checkpoints", "tensorboard", "predictions"):
        (run / name).mkdir()
    for name in ("metrics.jsonl", "summary.json", "notes.txt"):
        (run / name).write_text("x")
    run_folder.clear(run)
    assert sorted(path.name for path in run.iterdir()) == ["notes.txt", "predictions"]


def test_a_kill_while_clearing_leaves_a_run(resolved, run, monkeypatch):
    (run / "adapter").mkdir()
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        run_folder.clear(run)
    assert check(resolved(), overwrite=True) == run


def test_finished(resolved, run):
    print_ = resolved().fingerprint
    assert run_folder.finished(run, print_) is None
    run_folder.write_json(run / "summary.json", {"fingerprint": print_, "steps": 3})
    assert run_folder.finished(run, print_) is None, "there is no result"
    (run / "adapter").mkdir()
    assert run_folder.finished(run, print_) == {"fingerprint": print_, "steps": 3}
    assert run_folder.finished(run, "another") is None
    (run / "summary.json").write_text('{"fingerprint": "')
    assert run_folder.finished(run, print_) is None


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    run_folder.write_json(path, {"a": 1})
    monkeypatch.setattr(run_folder, "sync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunFailed, match=r"summary.json: could not be written \(No space left on device\)"):
        run_folder.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_a_result_replaces_the_old_one_only_when_whole(tmp_path):
    def good(folder):
        (folder / "weights").write_text("new")

    def bad(folder):
        (folder / "weights").write_text("ne")
        raise OSError(28, "No space left on device")

    run_folder.write_result(tmp_path / "adapter", good)
    with pytest.raises(RunFailed, match="adapter: could not be written"):
        run_folder.write_result(tmp_path / "adapter", bad)
    assert (tmp_path / "adapter" / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.skipif(os.name != "posix", reason="locks of the system")
def test_held(tmp_path):
    with run_folder.held(tmp_path), pytest.raises(RecipeError, match="another process is training into"):
        run_folder.held(tmp_path).__enter__()
    with run_folder.held(tmp_path):
        pass
