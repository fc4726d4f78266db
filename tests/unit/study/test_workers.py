# SPDX-License-Identifier: Apache-2.0
"""Several runs at a time: the same results as one after another; a dead worker costs one run, a stop costs none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from luthier.study import compare, runner, workers
from luthier.study.workers import places

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
PATIENCE = 120.0


@pytest.fixture
def study(tiny_llama, alpaca_file, tmp_path):
    suite = tmp_path / "mine.jsonl"
    suite.write_text(json.dumps({"prompt": "1+1?", "answer": "2"}) + "\n", encoding="utf-8")
    return {
        "base": {
            "model": {"model_name_or_path": str(tiny_llama), "dtype": "float32"},
            "data": {"train": str(alpaca_file), "max_length": 128},
            "method": {"name": "lora", "r": 4, "lora_dropout": 0.1},
            "train": {"max_steps": 3, "per_device_train_batch_size": 1},
        },
        "variants": {"r2": {"method.r": 2}, "r3": {"method.r": 3}, "full": {"method": "full"}},
        "evaluate": str(suite),
        "output_dir": str(tmp_path / "study"),
        "jobs": 2,
    }


def _wait(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"no {what} after {PATIENCE:.0f} s"
        time.sleep(0.05)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def sent(request):
    """What stops a study; SIGTERM where it ignores SIGINT, as in the background of a script."""
    return request.param


@pytest.fixture
def started(study, tmp_path, sent):
    """`luthier compare` in a process of its own, two runs under way."""
    study["base"]["train"]["max_steps"] = 100_000
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " if sent == signal.SIGTERM else ""
    code = f"{ignore}from luthier.study import runner; runner.places = lambda *_: 2; "
    code += f"runner.compare({str(file)!r}, say=print)"
    process = subprocess.Popen([sys.executable, "-u", "-c", code], stderr=subprocess.PIPE, text=True)
    logs = [Path(study["output_dir"]) / "runs" / name / "seed-0" / "metrics.jsonl" for name in ("r2", "r3")]
    try:
        _wait(lambda: process.poll() is not None or all(log.exists() and log.stat().st_size for log in logs), "step")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _worker_processes() -> set[int]:
    """Workers of this test session: they inherited its cache folder."""
    mine = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                home = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"luthier.study.worker" in words and os.environ["LUTHIER_HOME"].encode() in home:
                mine.add(int(entry.name))
    return mine


def test_results_are_those_of_one_after_another(study, monkeypatch, tmp_path):
    alone = compare({**study, "jobs": 1, "output_dir": str(tmp_path / "alone")})
    monkeypatch.setattr(runner, "places", lambda *_: 2)
    said: list[str] = []
    both = compare(study, say=said.append)
    assert [run.variant for run in both.runs] == ["base", "r2", "r3", "full"]
    for one, other in zip(alone.runs, both.runs, strict=True):
        assert not other.error
        assert one.summary.get("final_loss") == other.summary.get("final_loss")
        assert one.right["mine"].tolist() == other.right["mine"].tolist()
    assert [run.summary.get("runs_at_a_time") for run in both.runs] == [None, 2, 2, 2]
    assert any(line.startswith("[3/3] full, seed 0: mine") for line in said)
    assert all(run.reused for run in compare(study).runs)


def test_a_failed_run_is_shown(study, monkeypatch):
    monkeypatch.setattr(runner, "places", lambda *_: 2)
    study["variants"]["bad"] = {"method.target_modules": ["no_such_layer"]}
    result = compare(study)
    assert [run.variant for run in result.failed] == ["bad"]
    assert "no_such_layer" in result.failed[0].error


def test_a_killed_worker_costs_its_run_alone(study, monkeypatch):
    monkeypatch.setattr(runner, "places", lambda *_: 2)
    study["variants"] = {"long": {"train.max_steps": 100_000}, "r2": {"method.r": 2}, "r3": {"method.r": 3}}
    made = []
    real = workers._Worker

    class Watched(real):
        def give(self, work, group, threads):
            made.append([planned.variant for planned in group])
            super().give(work, group, threads)
            if "long" in made[-1]:
                self.process.send_signal(signal.SIGKILL)

    monkeypatch.setattr(workers, "_Worker", Watched)
    result = compare(study)
    assert [run.variant for run in result.failed] == ["long"]
    assert "ended by signal 9" in result.failed[0].error
    assert sorted(made) == [["long"], ["long", "r2"], ["r2"], ["r3"]], "what was left of a group runs alone"


def test_a_stop_saves_the_runs_under_way(study, started, sent):
    started.send_signal(sent)
    _, said = started.communicate(timeout=PATIENCE)
    assert "0 of 3 runs are done and kept" in said, said
    folder = Path(study["output_dir"]) / "runs"
    assert list(folder.glob("r2/seed-0/checkpoints/step-*"))
    assert list(folder.glob("r3/seed-0/checkpoints/step-*"))
    assert not (folder / "full").exists()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT])
def test_workers_do_not_outlive_a_killed_study(study, started):
    mine = _worker_processes()
    assert len(mine) == 2
    started.kill()
    started.wait()
    _wait(lambda: not mine & _worker_processes(), "end of the workers")
    assert list((Path(study["output_dir"]) / "runs").glob("r2/seed-0/checkpoints/step-*"))


def test_places_are_bounded(monkeypatch):
    monkeypatch.setattr(workers, "_cores", lambda: 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [places(8, 10), places(2, 10), places(8, 3), places(1, 9)] == [4, 2, 3, 1]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert places(8, 10) == 1
