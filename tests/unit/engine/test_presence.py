# SPDX-License-Identifier: Apache-2.0
"""Who trains into a folder: told while it does, believed only of the very process, and asked to stop by a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tests.runs import bits, tree

import luthier
from luthier.core.errors import RunStopped
from luthier.engine import loop
from luthier.engine.presence import NAME, STOP, announced, ask_to_stop, read_presence


def test_it_is_told_while_it_runs(tmp_path):
    assert read_presence(tmp_path) == {}
    (tmp_path / STOP).touch()  # of an earlier run
    with announced(tmp_path, 7):
        told = read_presence(tmp_path)
        assert told["running"]
        assert (told["pid"], told["total_steps"]) == (os.getpid(), 7)
        assert not (tmp_path / STOP).exists()
        ask_to_stop(tmp_path)
    told = read_presence(tmp_path)
    assert not told["running"]
    assert told["total_steps"] == 7
    assert not (tmp_path / STOP).exists()


def test_it_is_told_as_well_when_it_fails(tmp_path):
    with pytest.raises(ValueError, match="no"), announced(tmp_path, 7):
        raise ValueError("no")
    assert not read_presence(tmp_path)["running"]


def test_a_killed_process_is_not_believed(tmp_path):
    """It could not say that it left; its number alone says nothing, since another process may have it by now."""
    script = "import sys, os, signal; from pathlib import Path; from luthier.engine.presence import announced\n"
    script += "with announced(Path(sys.argv[1]), 5): os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    told = json.loads((tmp_path / NAME).read_text("utf-8"))
    assert told["pid"]
    assert not read_presence(tmp_path)["running"]
    (tmp_path / NAME).write_text(json.dumps(told | {"pid": os.getpid()}), "utf-8")
    assert not read_presence(tmp_path)["running"], "this process has the number, and began at another time"


@pytest.mark.parametrize("text", ["", "{", '{"pid": "x", "host": null}'])
def test_a_broken_file_is_nobody(tmp_path, text):
    (tmp_path / NAME).write_text(text, "utf-8")
    assert not read_presence(tmp_path).get("running")


def test_a_folder_that_cannot_be_written_does_not_stop_training(tmp_path):
    with announced(tmp_path / "missing", 3):
        assert read_presence(tmp_path / "missing") == {}


def test_a_file_stops_a_run_which_then_goes_on_to_the_same_bits(tiny_llama, alpaca_file, tmp_path, monkeypatch):
    original = loop._one_step

    def one_step(work, state):
        original(work, state)
        if state.progress.step == 2:
            ask_to_stop(work.folder)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_one_step", one_step)
        with pytest.raises(RunStopped, match=r"run: stopped after step 2 of 4, which is saved; go on with --resume"):
            luthier.train(tree(tiny_llama, alpaca_file, tmp_path / "run"))
    assert not (tmp_path / "run" / STOP).exists()
    luthier.train(tree(tiny_llama, alpaca_file, tmp_path / "run"), resume=True)
    whole = luthier.train(tree(tiny_llama, alpaca_file, tmp_path / "whole"))
    assert bits(tmp_path / "run") == bits(whole.folder)


def test_a_stop_at_the_last_step_is_none(tiny_llama, alpaca_file, tmp_path, monkeypatch):
    original = loop._one_step

    def one_step(work, state):
        original(work, state)
        if state.progress.step == work.total_steps:
            ask_to_stop(work.folder)

    monkeypatch.setattr(loop, "_one_step", one_step)
    assert luthier.train(tree(tiny_llama, alpaca_file, tmp_path / "run")).summary["steps"] == 4
