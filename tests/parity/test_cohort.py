# SPDX-License-Identifier: Apache-2.0
"""Runs side by side end where each would have ended alone: weights, metrics and counters after 50 steps."""

from __future__ import annotations

import json

import pytest
import torch
from tests.cohorts import base_of, cohort, together, work_on

from luthier.engine.loop import fit

pytestmark = pytest.mark.parity

# Ranks, alphas, scaling, rates, schedules, clipping, dropout, biases, optimisers and lengths of their own.
CONFIGS = [
    {"method": {"r": 2}},
    {"method": {"r": 4, "use_rslora": True}, "optim": {"learning_rate": 3e-3, "lr_scheduler_type": "cosine"}},
    {"method": {"r": 8, "lora_dropout": 0.2}, "optim": {"max_grad_norm": 0.05}},
    {"method": {"r": 16, "use_rslora": True, "lora_alpha": 4}, "optim": {"weight_decay": 0.1}},
    {"method": {"r": 4, "bias": "all"}, "train": {"max_steps": 40}},
    {"method": {"r": 8, "bias": "lora_only", "target_modules": "mlp"}, "optim": {"optim": "sgd", "momentum": 0.9}},
    {"method": {"r": 4, "target_modules": ["q_proj", "embed_tokens", "lm_head"], "lora_dropout": 0.1}},
    {"method": {"r": 2, "modules_to_save": ["norm"]}, "optim": {"adam_beta2": 0.99, "warmup_steps": 10}},
]
# On weights of the order of 1e-3 to 1; float32 sums in another order are off by 1e-7 and drift apart with the steps.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_eight_adapters_end_where_each_would_alone(dtype, tmp_path, monkeypatch):
    base = base_of("qwen2", dtype)
    members, side = cohort(base, tmp_path / "together", CONFIGS)
    passes = []
    monkeypatch.setattr(side, "logprobs", lambda forest, run=side.logprobs: passes.append(forest) or run(forest))
    ended = together(members, side)
    assert len(passes) == 2 * 50, "two micro-batches a step, each in one pass"
    assert {forest.adapters for forest in passes} == {_pairs(range(8)), _pairs([0, 1, 2, 3, 5, 6, 7])}
    for seed, config in enumerate(CONFIGS):
        alone = work_on(base, tmp_path / "alone" / str(seed), seed, **config)
        alone.folder.mkdir(parents=True)
        progress = fit(alone)
        assert (ended[seed].step, ended[seed].tokens) == (progress.step, progress.tokens)
        assert ended[seed].evaluation["loss"] == pytest.approx(progress.evaluation["loss"], rel=1e-5)
        got = members[seed].work.trainable.parameters()
        for name, wanted in alone.trainable.parameters().items():
            torch.testing.assert_close(
                got[name], wanted, atol=TOLERANCE[dtype], rtol=0, msg=lambda m, n=f"{seed} {name}": f"{n}: {m}"
            )
            assert not torch.equal(wanted, torch.zeros_like(wanted)), f"{name} did not train"
        losses = [_losses(folder) for folder in (members[seed].work.folder, alone.folder)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_in_turn_is_alone_to_the_bit(tmp_path):
    base = base_of("llama", torch.float32)
    configs = [CONFIGS[k] | {"train": {"max_steps": 5}} for k in (0, 2, 3)]
    members, side = cohort(base, tmp_path / "together", configs)
    together(members, side, most=0)
    for seed, config in enumerate(configs):
        alone = work_on(base, tmp_path / "alone" / str(seed), seed, **config)
        alone.folder.mkdir(parents=True)
        fit(alone)
        got = members[seed].work.trainable.parameters()
        assert all(torch.equal(got[name], wanted) for name, wanted in alone.trainable.parameters().items())


def _pairs(places):
    """Two trees of each."""
    return tuple(place for place in places for _ in range(2))


def _losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
