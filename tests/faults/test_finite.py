# SPDX-License-Identifier: Apache-2.0
"""A loss or gradient that is not finite: no update, the step and the rows are named, the last good checkpoint stays."""

from __future__ import annotations

import json

import pytest
import torch
from tests.runs import tree

import luthier
from luthier.core.errors import RunFailed
from luthier.engine import checkpoint, loop
from luthier.objectives import sft


@pytest.fixture
def recipe(tiny_llama, alpaca_file, tmp_path):
    def make(**optim):
        train = {"max_steps": 6, "save_steps": 1, "save_total_limit": None}
        train |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
        return tree(
            tiny_llama, alpaca_file, tmp_path / "run", method="full", data={"packing": False}, optim=optim, train=train
        )

    return make


@pytest.fixture
def poisoned(monkeypatch):
    """Make the loss of the fourth step's second micro-batch what is given."""

    def poison(value: float) -> list[str]:
        rows: list[str] = []
        original, calls = sft.Sft.loss, iter(range(1000))

        def loss(self, logps, forest):
            found = original(self, logps, forest)
            if next(calls) != 3 * 3 + 1:
                return found
            rows.extend(forest.rows)
            return type(found)(total=found.total * value, metrics=found.metrics)

        monkeypatch.setattr(sft.Sft, "loss", loss)
        return rows

    return poison


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(recipe, poisoned, tmp_path, value):
    rows = poisoned(value)
    models = []
    original = loop.accumulate

    def accumulate(model, *given):
        models.append(model)
        return original(model, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "accumulate", accumulate)
        with pytest.raises(RunFailed) as caught:
            luthier.train(recipe())
    message = str(caught.value)
    assert message.startswith(f"step 4: loss {value} on rows ")
    assert len(rows) == 2
    assert f"on rows {', '.join(rows)}; no update was made;" in message, "only the micro-batch with the bad loss"
    assert f"the last good checkpoint is {tmp_path}/run/checkpoints/step-2" in message
    assert "lower optim.learning_rate, or look at these rows with `luthier data`" in message
    assert caught.value.exit_code == 1

    last = tmp_path / "run" / "checkpoints" / "step-3"
    assert not checkpoint.fault_of(last)
    saved = checkpoint.load_file(last / "parameters.safetensors")
    now = dict(models[-1].named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in saved.items()), "an update was applied"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


def test_a_gradient_that_is_not_finite(recipe, monkeypatch, tmp_path):
    clip, calls = loop.clip, iter(range(1000))
    monkeypatch.setattr(loop, "clip", lambda *given: float("inf") if next(calls) == 0 else clip(*given))
    with pytest.raises(RunFailed, match=r"step 1: gradient norm inf on rows .*no checkpoint had been written yet"):
        luthier.train(recipe())
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_gradient_norm_finds_one_bad_number():
    from luthier.engine.optim import clip

    twin = torch.nn.Parameter(torch.zeros(1000))
    twin.grad = torch.zeros(1000)
    for bad in (float("nan"), float("inf")):
        twin.grad[517] = bad
        assert not torch.isfinite(torch.tensor(clip({"w": twin}, 0.0)))


def test_a_huge_learning_rate(recipe, tmp_path):
    """The weights stay finite and the next loss is not: the checkpoint that holds them is not called good."""
    with pytest.raises(RunFailed) as caught:
        luthier.train(recipe(learning_rate=1e30, optim="sgd", max_grad_norm=0.0, warmup_ratio=0.0))
    message = str(caught.value)
    assert "step 2: " in message
    assert "step-1 holds the weights that gave it, and there is none before it" in message


def test_weights_that_are_not_finite_are_not_saved(recipe, monkeypatch, tmp_path):
    step = torch.optim.AdamW.step

    def wreck(self, *given):
        step(self, *given)
        with torch.no_grad():
            self.param_groups[0]["params"][0].view(-1)[5] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", wreck)
    with pytest.raises(RunFailed, match=r"step 1: 1 parameters are no longer finite \(.*they are not saved; no checkp"):
        luthier.train(recipe())
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_memory_runs_out(recipe, monkeypatch):
    def accumulate(*_):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:126] . DefaultCPUAllocator: can't allocate memory: you tried"
        )

    monkeypatch.setattr(loop, "accumulate", accumulate)
    with pytest.raises(RunFailed, match=r"step 1: memory ran out \(.*set train.gradient_checkpointing: true, or lower"):
        luthier.train(recipe())


def test_other_errors_are_not_taken_for_memory(recipe, monkeypatch):
    def accumulate(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(loop, "accumulate", accumulate)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        luthier.train(recipe())
