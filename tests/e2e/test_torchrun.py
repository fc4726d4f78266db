# SPDX-License-Identifier: Apache-2.0
"""`torchrun ... -m luthier train`: one run by two processes, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.runs import metrics, recipe_file, tree

import luthier

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
LIMIT = 240  # seconds; a run takes ten on two quiet cores


@pytest.fixture
def recipe(tiny_llama, alpaca_file, tmp_path):
    """Small steps with evaluation; `lora_dropout` is off where one process is compared with two."""

    def make(name, dropout=0.0, **train):
        small = {"max_steps": 20, "per_device_train_batch_size": 2, "logging_steps": 1, "eval_steps": 10} | train
        data = {"eval": [{"path": str(alpaca_file), "max_rows": 9}], "packing": False}
        method = {"name": "lora", "r": 4, "lora_dropout": dropout}
        # Adam divides by the gradient's size, so a small rate keeps the rounding of small gradients small
        optim = {"learning_rate": 1e-4}
        return tree(tiny_llama, alpaca_file, tmp_path / name, train=small, data=data, method=method, optim=optim)

    return make


def start(folder, given, *words, ranks=2):
    folder.mkdir(exist_ok=True)
    command = [*TORCHRUN, str(ranks), "-m", "luthier", "train", recipe_file(folder, given), "--quiet", *words]
    source = str(Path(luthier.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def ended(process):
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        pytest.fail(f"still running after {LIMIT} s: {process.communicate(timeout=60)}")
    return process.returncode, out, err


def wait_for_step(process, folder, step):
    until = time.monotonic() + LIMIT
    while not any(line["step"] >= step for line in read(folder)):
        if process.poll() is not None or time.monotonic() > until:
            pytest.fail(f"the run did not get to step {step}: {ended(process)}")
        time.sleep(0.01)


def read(folder):
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def test_two_processes_train_what_one_does(recipe, tmp_path):
    given = recipe("two")
    with start(tmp_path / "file", given, "--json") as process:
        code, out, err = ended(process)
    assert code == 0, err
    alone = luthier.train(recipe("one", per_device_train_batch_size=4))
    ours, theirs = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
    assert any(float(tensor.abs().max()) > 1e-4 for name, tensor in ours.items() if "lora_B" in name), "nothing trained"
    lines, wanted = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert [line["step"] for line in lines] == [line["step"] for line in wanted]
    for line, other in zip(lines, wanted, strict=True):
        assert line == pytest.approx(other, rel=1e-4)
    summary = json.loads(out)  # one object: rank 1 is silent
    assert summary == json.loads((tmp_path / "two" / "summary.json").read_text())
    assert (summary["world_size"], alone.summary["world_size"]) == (2, 1)
    assert {key: summary[key] for key in ("tokens", "scored_tokens", "flops", "steps")} == {
        key: alone.summary[key] for key in ("tokens", "scored_tokens", "flops", "steps")
    }
    assert err.count("parameters train") == 1
    assert not torch.distributed.is_initialized()


def test_killed_resumed_to_the_same_bits_and_stopped(recipe, tmp_path):
    """With dropout: each rank's random state stands in the checkpoint."""
    given, run = recipe("run", dropout=0.2, max_steps=20_000, save_steps=20, eval_steps=0), tmp_path / "run"
    with start(tmp_path / "file", given) as process:
        wait_for_step(process, run, 35)
        os.kill(rank_of(process, 1), signal.SIGKILL)
        began = time.monotonic()
        code, _, err = ended(process)
    assert code != 0
    assert time.monotonic() - began < 60
    assert "error: rank 0 of 2: another rank has ended" in err, err
    assert "/luthier/engine/" not in err, "a traceback"
    assert not (run / "summary.json").exists()
    saved = max(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))
    before = [line for line in metrics(run) if line["step"] > saved]
    assert before, "the kill came right after a checkpoint"

    with start(tmp_path / "file", given, "--resume") as process:
        wait_for_step(process, run, before[-1]["step"] + 5)
        process.send_signal(signal.SIGTERM)
        code, _, err = ended(process)
    assert code != 0
    assert f"going on after step {saved} of 20000" in err
    assert [line for line in metrics(run) if line["step"] > saved][: len(before)] == before
    last = read(run)[-1]["step"]
    assert f"error: {run}: stopped after step {last} of 20000, which is saved; go on with: the same torchrun" in err
    assert (run / "checkpoints" / f"step-{last}" / "manifest.json").exists()


def rank_of(process, rank):
    """The process of a rank, by its environment."""
    for number in children(process.pid):
        words = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in words:
            return number
    raise AssertionError(f"no rank {rank} below {process.pid}")


def children(number):
    return [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
