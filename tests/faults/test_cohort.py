# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: one that breaks is taken out and the others never know; a stop and a kill lose nobody's steps."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from tests.cohorts import base_of, cohort, together

from luthier.core.errors import Interrupted, RunFailed
from luthier.engine import checkpoint, loop
from luthier.engine.cohort import fit_together
from luthier.objectives import sft

CONFIGS = [{"method": {"r": 2, "lora_dropout": 0.2}}, {"method": {"r": 4}}, {"method": {"r": 8, "use_rslora": True}}]
STEPS = {"train": {"max_steps": 8, "save_steps": 2}}


@pytest.fixture
def base():
    return base_of("llama", torch.float64)


def weights(members):
    return [{n: p.detach().clone() for n, p in m.work.trainable.parameters().items()} for m in members]


@pytest.fixture
def undisturbed(base, tmp_path):
    """Where the three end when nothing happens."""
    members, side = cohort(base, tmp_path / "undisturbed", CONFIGS, **STEPS)
    together(members, side)
    return weights(members)


def same(got, wanted):
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, atol=1e-10, rtol=0)


def break_loss(monkeypatch, row_of, value=float("nan")):
    """Every loss with a row that begins so is not a number."""
    original = sft.Sft.loss

    def loss(self, logps, forest):
        found = original(self, logps, forest)
        hit = any(row.startswith(row_of) for row in forest.rows)
        return type(found)(total=found.total * value, metrics={}) if hit else found

    monkeypatch.setattr(sft.Sft, "loss", loss)


def test_a_loss_that_is_not_finite_ends_its_run_alone(base, undisturbed, tmp_path, monkeypatch):
    break_loss(monkeypatch, "rows:1-4-")
    members, side = cohort(base, tmp_path / "broken", CONFIGS, **STEPS)
    ended = together(members, side)
    assert isinstance(ended[1], RunFailed)
    assert str(ended[1]).startswith("step 5: loss nan on rows rows:1-4-0-0")
    assert "the last good checkpoint is " in str(ended[1])
    assert checkpoint.newest_whole(members[1].work.checkpoints).name == "step-4"
    for place in (0, 2):
        assert ended[place].step == 8
        same(weights(members)[place], undisturbed[place])


def test_weights_that_are_not_finite_reach_nobody(base, undisturbed, tmp_path):
    members, side = cohort(base, tmp_path / "broken", CONFIGS, **STEPS)
    with torch.no_grad():
        for parameter in members[1].work.trainable.parameters().values():
            parameter.view(-1)[0] = float("nan")
    ended = together(members, side)
    assert "loss nan on rows" in str(ended[1])
    for place in (0, 2):
        same(weights(members)[place], undisturbed[place])


def test_a_disk_that_is_full_ends_one_run(base, undisturbed, tmp_path, monkeypatch):
    members, side = cohort(base, tmp_path / "full", CONFIGS, **STEPS)
    write = loop.checkpoint.save_checkpoint

    def save(folder, *given):
        if folder == members[0].work.checkpoints:
            raise RunFailed("checkpoint", "could not be written (No space left on device)")
        return write(folder, *given)

    monkeypatch.setattr(loop.checkpoint, "save_checkpoint", save)
    ended = together(members, side)
    assert "No space left" in str(ended[0])
    for place in (1, 2):
        same(weights(members)[place], undisturbed[place])


def test_a_pass_that_fails_is_done_one_by_one(base, undisturbed, tmp_path, monkeypatch):
    members, side = cohort(base, tmp_path / "memory", CONFIGS, **STEPS)
    calls = []

    def logprobs(forest, run=side.logprobs):
        calls.append(forest)
        logps = run(forest)
        if len(calls) == 4:  # the second micro-batch: gradients of the first, and dropout's draws, are there already
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return logps

    monkeypatch.setattr(side, "logprobs", logprobs)
    together(members, side)
    assert len(calls) == 4, "what failed for want of memory is not tried again"
    for place in range(3):
        same(weights(members)[place], undisturbed[place])


def test_a_stop_saves_everyone_and_all_go_on(base, undisturbed, tmp_path, monkeypatch):
    members, side = cohort(base, tmp_path / "stopped", CONFIGS, **STEPS)
    update = loop.clip

    def clip(twins, most):
        if (members[1].work.folder / "metrics.jsonl").exists() and len(lines(members[1])) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.setattr(loop, "clip", update)
        return update(twins, most)

    monkeypatch.setattr(loop, "clip", clip)
    with pytest.raises(Interrupted, match="3 runs that share a base are saved"):
        together(members, side)
    steps = [checkpoint.step_of(checkpoint.newest_whole(member.work.checkpoints)) for member in members]
    assert steps == [len(lines(member)) for member in members]
    members, side = cohort(base, tmp_path / "stopped", CONFIGS, resume=True, **STEPS)
    together(members, side)
    for place in range(3):
        same(weights(members)[place], undisturbed[place])


def test_after_a_kill_each_goes_on_from_its_own_checkpoint(base, undisturbed, tmp_path):
    """They saved at different steps: 2, 3 and nothing at all."""
    every = [
        config | {"train": {"max_steps": 8, "save_steps": n}} for config, n in zip(CONFIGS, (2, 3, 0), strict=True)
    ]
    members, side = cohort(base, tmp_path / "killed", every)

    class Killed(Exception):
        pass

    def batches(step, run=members[0].work.batches):
        if step == 5:
            raise Killed
        return run(step)

    object.__setattr__(members[0].work, "batches", batches)
    with pytest.raises(Killed):
        together(members, side)
    found = [checkpoint.newest_whole(member.work.checkpoints) for member in members]
    assert [path and path.name for path in found] == ["step-4", "step-3", None]
    members, side = cohort(base, tmp_path / "killed", every, resume=True)
    ended = dict(fit_together(members, side, 1000))
    assert [ended[place].step for place in range(3)] == [8, 8, 8]
    for place in range(3):
        same(weights(members)[place], undisturbed[place])
        assert [line["step"] for line in lines(members[place]) if "loss" in line] == list(range(1, 9))


def test_early_stopping_is_each_ones_own(base, tmp_path):
    train = {"max_steps": 30, "eval_steps": 1, "early_stopping_patience": 2}
    configs = [CONFIGS[0] | {"optim": {"learning_rate": 1.0}}, CONFIGS[1]]
    members, side = cohort(base, tmp_path / "early", configs, train=train)
    ended = together(members, side)
    assert ended[0].ended
    assert ended[0].step < ended[1].step
    assert sum(ended[place].seconds > 0 for place in range(2)) == 2


def lines(member):
    return [json.loads(line) for line in (member.work.folder / "metrics.jsonl").read_text().splitlines()]
