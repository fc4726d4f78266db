# SPDX-License-Identifier: Apache-2.0
"""W ranks with a batch of b rows train what one process does with W * b: weights, lines of metrics, evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.cohorts import base_of, work_on
from tests.ranks import on_ranks
from tests.runs import metrics

from luthier.core.trainable import Loss
from luthier.core.types import Segment, Tree
from luthier.engine.loop import fit
from luthier.engine.presence import ask_to_stop
from luthier.engine.step import StepResult, accumulate, evaluate_loss, merged

STEPS = 20
LORA = {"r": 4, "lora_alpha": 8}


def rows(step, count=7):
    """The rows of a step, in other lengths: ranks get unequal numbers of rows and of scored tokens."""
    draw = np.random.default_rng(step)
    found = []
    for row in range(count):
        length = int(draw.integers(4, 20))
        scored = np.arange(length) >= draw.integers(0, 4)
        ids = draw.integers(3, 60, length).astype(np.int32)
        found.append(Tree(segments=(Segment(ids=ids, scored=scored),), row=f"rows:{step}-{row}"))
    return found


def micro_batches(step, size, rank=0, world=1):
    own = rows(step, 1 if step == 3 else 7)[rank::world]  # at step 3 there is a rank without rows
    return [own[at : at + size] for at in range(0, len(own), size)]


def run(folder, dtype, ranks=None, *, stop=None, ask_at=None, resume=False, rate=1e-3, optim=None, **method):
    """Train a tiny model, on one process or as one of several; give its weights."""
    base = base_of("llama", dtype)
    train = {"max_steps": STEPS, "logging_steps": 3, "eval_steps": 10, "save_steps": 5}
    optim = {"learning_rate": rate, "max_grad_norm": 0.1} | (optim or {})
    work = work_on(base, folder, 0, LORA | method, train=train, optim=optim)
    world, rank = (ranks.world, ranks.rank) if ranks else (1, 0)
    work = replace(
        work,
        batches=lambda step: micro_batches(step, 2 if world > 1 else 4, rank, world),
        eval_batches=[rows(99)[at : at + 2] for at in range(0, 7, 2)],
        **({"ranks": ranks} if ranks else {}),
    )
    folder.mkdir(parents=True, exist_ok=True)

    def batches(step):
        if step == stop:
            raise Stopped
        if step == ask_at:
            ask_to_stop(folder)
        return work.batches(step)

    try:
        progress = fit(replace(work, batches=batches), resume=resume)
    except Stopped:
        return None
    weights = {name: p.detach().tolist() for name, p in work.trainable.parameters().items()}
    return {"weights": weights, "evaluation": progress.evaluation, "tokens": progress.tokens}


class Stopped(Exception):
    """Stands for the end of the process."""


def apart(one, other):
    assert one.keys() == other.keys()
    return max(float((torch.tensor(one[n]).double() - torch.tensor(other[n]).double()).abs().max()) for n in one)


@pytest.mark.parametrize(
    ("dtype", "world", "bound"), [(torch.float64, 2, 1e-10), (torch.float64, 3, 1e-10), (torch.float32, 2, 1e-5)]
)
def test_ranks_train_what_one_process_does(tmp_path, dtype, world, bound):
    # float32 with a small rate: Adam divides by the gradient's size, so rounding of small ones grows with the rate
    rate = 1e-3 if dtype == torch.float64 else 1e-4
    torch.set_default_dtype(torch.float64)  # so that lists become tensors without loss
    try:
        alone = run(tmp_path / "alone", dtype, rate=rate)
        found = on_ranks(world, lambda ranks: run(tmp_path / "ranks", dtype, ranks, rate=rate))
        for answer in found:
            assert apart(answer["weights"], alone["weights"]) < bound
            assert answer["weights"] == found[0]["weights"]
            assert answer["evaluation"] == found[0]["evaluation"]
            assert answer["tokens"] == alone["tokens"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[0]["evaluation"]["loss"] == pytest.approx(alone["evaluation"]["loss"], rel=bound)
    lines, wanted = metrics(tmp_path / "ranks"), metrics(tmp_path / "alone")
    assert [line.keys() for line in lines] == [line.keys() for line in wanted]
    for line, other in zip(lines, wanted, strict=True):
        assert list(line.values()) == pytest.approx(list(other.values()), rel=max(bound, 1e-9) * 10)


def test_resume_with_dropout_to_the_same_bits(tmp_path):
    given = {"lora_dropout": 0.3}
    whole = on_ranks(2, lambda ranks: run(tmp_path / "whole", torch.float32, ranks, **given))
    assert whole[0]["weights"] == whole[1]["weights"]
    on_ranks(2, lambda ranks: run(tmp_path / "cut", torch.float32, ranks, stop=12, **given))
    assert (tmp_path / "cut" / "checkpoints" / "step-10").is_dir()
    again = on_ranks(2, lambda ranks: run(tmp_path / "cut", torch.float32, ranks, resume=True, **given))
    assert again == whole
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    state = json.loads((tmp_path / "cut" / "checkpoints" / f"step-{STEPS}" / "state.json").read_text())
    assert len(state["others"]) == 1
    assert state["others"][0] != state["random"]


def test_weights_rounded_at_random_are_the_same_on_all_ranks(tmp_path):
    """What is drawn is a function of seed and step; ranks that differed would be refused when they save."""
    optim = {"weights": "bfloat16_stochastic", "optim": "lion", "loraplus_lr_ratio": 4}
    optim |= {"groups": [{"parameters": "norms", "learning_rate_scale": 100.0}]}

    def work(ranks):
        return run(tmp_path, torch.bfloat16, ranks, optim=optim, modules_to_save=["norm"], rate=1e-4)

    found = on_ranks(2, work)
    assert found[0]["weights"] == found[1]["weights"]
    norm = torch.tensor(found[0]["weights"]["model.norm.weight"])
    assert torch.equal(norm, norm.bfloat16().float())
    assert not torch.equal(norm, base_of("llama", torch.bfloat16).model.norm.weight.float())


def test_another_number_of_ranks_cannot_go_on(tmp_path):
    on_ranks(2, lambda ranks: run(tmp_path, torch.float32, ranks, stop=12))
    found = on_ranks(3, lambda ranks: run(tmp_path, torch.float32, ranks, resume=True))
    for error in found:
        assert error.kind == "UserError"
        assert "torchrun: 3 processes, and" in error.message
        assert "step-10 was written by 2; as many as before" in error.message


def test_a_request_to_stop_is_heard_by_all_ranks(tmp_path):
    def work(ranks):
        return run(tmp_path, torch.float32, ranks, ask_at=6 if ranks.first else None)

    for error in on_ranks(2, work):
        assert error.kind == "RunStopped"
        assert f"stopped after step 7 of {STEPS}, which is saved" in error.message
    assert (tmp_path / "checkpoints" / "step-7" / "manifest.json").exists()


class Summed:
    """An objective whose loss needs a sum over the whole step, as KTO's does."""

    reference, loss_at_start, mismatched = False, None, False

    def units(self, forest):
        return len(forest.rows)

    def gather(self, outputs, forest):
        return {"sum": outputs.sum().detach()}

    def loss(self, outputs, forest):
        return Loss(total=-(outputs * torch.tanh(forest.step["sum"] / 100)).sum(), metrics={})


def test_sums_of_the_whole_step_are_those_of_all_ranks():
    work = work_on(base_of("llama", torch.float64), None, 0, LORA)
    model = work.trainable.model.eval()
    alone = accumulate(model, Summed(), micro_batches(0, 7))
    norms = [float(p.grad.norm()) for p in work.trainable.parameters().values()]

    def share(ranks):
        model.zero_grad(set_to_none=True)
        own = accumulate(model, Summed(), micro_batches(0, 4, ranks.rank, ranks.world), None, ranks)
        ranks.add_gradients(model.parameters())
        return merged(ranks.gather(own)), [float(p.grad.norm()) for p in work.trainable.parameters().values()]

    for found, theirs in on_ranks(2, share):
        assert isinstance(found, StepResult)
        assert found.loss == pytest.approx(alone.loss, rel=1e-12)
        assert theirs == pytest.approx(norms, rel=1e-10)
        assert sorted(found.rows) == sorted(alone.rows)


def test_a_rank_without_evaluation_batches():
    work = work_on(base_of("llama", torch.float64), None, 0, LORA)
    model, objective = work.trainable.model, work.objective
    wanted = evaluate_loss(model, objective, [rows(5)])
    found = on_ranks(3, lambda ranks: evaluate_loss(model, objective, [rows(5)], None, ranks))
    assert found == [wanted] * 3
