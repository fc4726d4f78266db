# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM, sent to the command line in a process of its own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time

import pytest
from tests.runs import bits, recipe_file, start, tree

import luthier
from luthier.cli import _stoppable
from luthier.core.errors import Interrupted
from luthier.engine import checkpoint, loop

STEPS = 60


@pytest.fixture
def recipe(tiny_llama, alpaca_file, tmp_path):
    def make(name, **train):
        return tree(tiny_llama, alpaca_file, tmp_path / name, train={"max_steps": STEPS, **train})

    return make


def _wait_for_steps(process: subprocess.Popen[str], folder, steps: int) -> None:
    file = folder / "metrics.jsonl"
    until = time.monotonic() + 90
    while not file.exists() or file.read_bytes().count(b"\n") < steps:
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            pytest.fail(f"the run did not get to step {steps}: {process.communicate()}")
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_saves_and_says_how_to_go_on(recipe, command, tmp_path, sent):
    run, file = tmp_path / "a run", recipe_file(tmp_path, recipe("a run"))
    with start("train", file, "optim.learning_rate=2e-3", "--quiet", "--overwrite") as process:
        _wait_for_steps(process, run, 3)
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "stopping after this step, which is then saved; once more to stop at once" in err
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {run}: stopped after step ")
    saved = checkpoint.newest_whole(run / "checkpoints")
    assert (
        f"stopped after step {checkpoint.step_of(saved)} of {STEPS}, which is saved; go on with: luthier train" in last
    )

    again = shlex.split(last.partition("go on with: ")[2])
    assert again == ["luthier", "train", str(file), "optim.learning_rate=2e-3", "--resume", "--quiet"]
    said = command(*again[1:])
    assert said.code == 0, said.err
    assert f"going on after step {checkpoint.step_of(saved)} of {STEPS}" in said.err
    whole = luthier.train(recipe("whole") | {"optim": {"learning_rate": 2e-3}})
    assert bits(run) == bits(whole.folder)


@pytest.mark.slow
def test_twice_stops_at_once(recipe, tmp_path):
    """With steps of a thousand micro-batches the first step takes far longer than this test waits."""
    long = recipe("run", per_device_train_batch_size=1, gradient_accumulation_steps=100_000)
    long["data"] |= {"train": [{"path": long["data"]["train"], "weight": 100.0}]}
    run = tmp_path / "run"
    with start("train", recipe_file(tmp_path, long), "--quiet") as process:
        until = time.monotonic() + 90
        while not (run / "ledger.json").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None, "it waits for the end of the step"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert "stopped at once; what was saved before is whole; go on with: luthier train" in err
    assert "Traceback" not in err
    assert not list(run.glob("checkpoints/*"))


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_before_training(recipe, tmp_path, sent):
    """While packages are imported and data are read nothing is lost, and the exit code is the same."""
    with start("train", recipe_file(tmp_path, recipe("run")), "--quiet") as process:
        time.sleep(1.5)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err


class Last:
    """Ctrl-C arrives while it is taken down."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def test_in_a_finaliser_it_is_not_lost():
    def dropped():
        last = Last()
        del last
        time.sleep(60)  # ends with the interrupt; a starved machine needed more than 5 s

    with pytest.raises(Interrupted), _stoppable():
        dropped()


@pytest.fixture
def signal_after(monkeypatch):
    """Send this process a signal after a step."""

    def after(step, number):
        original = loop._one_step

        def one_step(work, state):
            original(work, state)
            if state.progress.step == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(loop, "_one_step", one_step)

    return after


def test_a_stop_at_the_last_step_is_none(recipe, signal_after):
    """Everything is done by then: the result is written and the exit code is 0."""
    signal_after(3, signal.SIGINT)
    assert luthier.train(recipe("run", max_steps=3)).summary["steps"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_in_python(recipe, signal_after, tmp_path, number):
    signal_after(2, number)
    with pytest.raises(Interrupted, match=r"run: stopped after step 2 of 4, which is saved; go on with --resume"):
        luthier.train(recipe("run", max_steps=4))
    assert checkpoint.newest_whole(tmp_path / "run" / "checkpoints").name == "step-2"


def test_an_ignored_signal_stays_ignored(recipe, signal_after):
    """`nohup luthier train` outlives its terminal."""
    signal_after(1, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert luthier.train(recipe("run", max_steps=2)).summary["steps"] == 2
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back(recipe):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    luthier.train(recipe("run", max_steps=1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_training_in_a_thread(recipe):
    """Python allows no signal handlers there; training must not need them."""
    from threading import Thread

    done: list[int] = []
    thread = Thread(target=lambda: done.append(luthier.train(recipe("run", max_steps=2)).summary["steps"]))
    thread.start()
    thread.join(60)
    assert done == [2]
