# SPDX-License-Identifier: Apache-2.0
"""Trackers: what they receive, what they write, and what becomes of the run when they fail."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console
from tests.runs import metrics, stop_before, tree

import luthier
from luthier.core import registry
from luthier.core.errors import MissingExtra
from luthier.engine.callbacks import Callback
from luthier.engine.callbacks.progress import Progress

HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


@pytest.fixture
def recipe(tiny_llama, alpaca_file, tmp_path):
    def make(**train):
        data = {"eval": [{"path": str(alpaca_file), "max_rows": 8}]}
        given = {"max_steps": 6, "eval_steps": 3, "logging_steps": 2, "save_steps": 4}
        return tree(tiny_llama, alpaca_file, tmp_path / "run", train=given | train, data=data)

    return make


@pytest.fixture
def own(monkeypatch):
    """Register a callback as another package would."""

    def register(callback):
        entries, get = registry.entries, registry.get
        module = SimpleNamespace(make=lambda folder: callback)

        def known(kind):
            return entries(kind) | ({"own": "a test's own"} if kind == "engine.callbacks" else {})

        monkeypatch.setattr(registry, "entries", known)
        monkeypatch.setattr(registry, "get", lambda kind, name, *at: module if name == "own" else get(kind, name, *at))

    return register


class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def on_start(self, folder, recipe, total_steps, step):
        self.calls.append(("start", folder.name, recipe["train"]["max_steps"], total_steps, step))

    def on_step(self, record):
        self.calls.append(("step", record["step"]))
        assert record.keys() == {"step", "loss", "tokens_per_second"}

    def on_log(self, record):
        self.calls.append(("log", record["step"]))
        assert {"loss", "grad_norm", "learning_rate", "tokens", "scored_tokens", "seconds"} < record.keys()

    def on_evaluate(self, record):
        self.calls.append(("evaluate", record["step"]))
        assert record.keys() == {"step", "eval_loss"}

    def on_save(self, path):
        self.calls.append(("save", path.name))

    def on_end(self):
        self.calls.append(("end",))


def test_the_order_of_events(recipe, own):
    recorder = Recorder()
    own(recorder)
    luthier.train(recipe(report_to=["own"]))
    steps = [("step", 1), ("step", 2), ("log", 2), ("step", 3), ("evaluate", 3), ("step", 4), ("log", 4)]
    steps += [("save", "step-4"), ("step", 5), ("step", 6), ("log", 6), ("evaluate", 6), ("save", "step-6"), ("end",)]
    assert recorder.calls == [("start", "run", 6, 6, 0), *steps]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_broken_tracker_is_reported_once_and_training_goes_on(recipe, own, hook):
    def fail(*_):
        raise ConnectionError("server is down")

    own(type("Broken", (Callback,), {hook: fail})())
    said: list[str] = []
    result = luthier.train(recipe(report_to=["own"]), say=said.append)
    told = [line for line in said if "server is down" in line]
    assert len(told) == 1
    assert told[0].startswith(f"callback own failed in {hook} (ConnectionError: server is down, at ")
    assert told[0].endswith("; it is switched off, training goes on")
    assert result.summary["steps"] == 6
    assert len(metrics(result.folder)) == 5


def test_a_callback_may_be_interrupted(recipe, own):
    def stop(*_):
        raise KeyboardInterrupt

    own(type("Stops", (Callback,), {"on_step": stop})())
    with pytest.raises(KeyboardInterrupt):
        luthier.train(recipe(report_to=["own"]))


def curves(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard(recipe):
    result = luthier.train(recipe(report_to="tensorboard"))
    found, lines = curves(result.folder), metrics(result.folder)
    for tag, name in (("train/loss", "loss"), ("train/learning_rate", "learning_rate"), ("eval/loss", "eval_loss")):
        wanted = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]
        assert found[tag] == wanted
    assert {"train/grad_norm", "train/tokens", "train/scored_tokens", "train/tokens_per_second"} < found.keys()


def test_tensorboard_of_a_resumed_run(recipe):
    """The first attempt logged step 6, the resumed one begins after 4: no step stands twice."""
    stop_before(6, recipe(report_to="tensorboard", logging_steps=1, max_steps=7))
    luthier.train(recipe(report_to="tensorboard", logging_steps=1, max_steps=7), resume=True)
    assert [step for step, _ in curves_of(recipe)["train/loss"]] == [1, 2, 3, 4, 5, 6, 7]


def curves_of(recipe):
    from pathlib import Path

    return curves(Path(recipe()["output_dir"]))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package(recipe, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra) as caught:
        luthier.train(recipe(report_to=name))
    wanted = f"train.report_to: {name}: the package '{name}' is not installed; it comes with the extra 'trackers'"
    assert str(caught.value) == f"{wanted}; pip install 'luthier[trackers]'"


@pytest.fixture
def stub(monkeypatch):
    """A stand-in for the package, which keeps what it was given."""
    calls = []

    class Run:
        def log(self, values, step):
            calls.append(("log", step, values))

        def finish(self):
            calls.append(("finish",))

    module = ModuleType("wandb")
    module.init = lambda **words: calls.append(("init", words)) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_calls(recipe, stub):
    folder = luthier.train(recipe(report_to="wandb")).folder
    first, *rest, last = stub
    words = first[1]
    assert (words["project"], words["name"], words["dir"], words["resume"]) == ("luthier", "run", str(folder), "allow")
    assert words["config"]["train"]["max_steps"] == 6
    assert last == ("finish",)
    assert [step for _, step, _ in rest] == [2, 3, 4, 6, 6]
    assert [line["loss"] for line in metrics(folder) if "loss" in line] == [
        values["train/loss"] for *_, values in rest if "train/loss" in values
    ]
    assert "eval/loss" in rest[1][2]


def test_wandb_goes_on_in_the_same_run(recipe, stub):
    stop_before(5, recipe(report_to="wandb"))
    luthier.train(recipe(report_to="wandb"), resume=True)
    names = [call[1]["id"] for call in stub if call[0] == "init"]
    assert len(names) == 2
    assert names[0] == names[1]


def test_wandb_offline(recipe, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    said: list[str] = []
    folder = luthier.train(recipe(report_to="wandb"), say=said.append).folder
    assert not [line for line in said if "callback wandb failed" in line]
    assert list((folder / "wandb").glob("offline-run-*"))


def shown(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    bar = Progress(console)
    bar.on_start(SimpleNamespace(name="run"), {}, 20, 4)
    for step in range(5, 21):
        bar.on_step({"step": step, "loss": 1.23456, "tokens_per_second": 1234.5})
    bar.on_evaluate({"step": 20, "eval_loss": 0.5})
    if terminal:
        bar._bar.refresh()
    text = console.file.getvalue()
    bar.on_end()
    return text


def test_progress_in_a_file_is_ten_lines():
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "step 6/20  loss 1.235  1,234 tokens/s"
    assert lines[-1] == "step 20/20  eval_loss 0.5000"
    assert len(lines) == 9


def test_progress_on_a_terminal():
    text = shown(terminal=True)
    assert "20/20" in text
    assert "loss 1.235  1,234 tokens/s" in text
    assert "0:00:00" in text, "the time left"
