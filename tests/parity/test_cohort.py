# SPDX-License-Identifier: Apache-2.0
"""Runs side by side end where each would have ended alone: weights, metrics and counters after 50 steps."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.cohorts import base_of, cohort, together, work_on

from luthier.core import registry
from luthier.core.types import Segment, Tree
from luthier.engine.loop import fit
from luthier.engine.reference import refer_in_step
from luthier.recipe import entry_config

pytestmark = pytest.mark.parity

# Ranks, alphas, scaling, rates, schedules, clipping, dropout, biases, optimisers and lengths of their own.
CONFIGS = [
    {"method": {"r": 2}},
    {
        "method": {"r": 4, "use_rslora": True},
        "optim": {"learning_rate": 3e-3, "lr_scheduler_type": "cosine", "loraplus_lr_ratio": 4},
    },
    {"method": {"r": 8, "lora_dropout": 0.2}, "optim": {"max_grad_norm": 0.05}},
    {"method": {"r": 16, "use_rslora": True, "lora_alpha": 4}, "optim": {"weight_decay": 0.1, "layer_decay": 0.8}},
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_several_objectives_in_one_pass(dtype, tmp_path, monkeypatch):
    """Plain rows, pairs with a reference that is asked in each step, and KTO's sums over two micro-batches."""
    base = base_of("qwen2", dtype)
    names = ["sft", "dpo", "kto", "orpo"]
    members, side = cohort(base, tmp_path / "together", [{"method": {"r": 4}, "train": {"max_steps": 12}}] * 4)
    members = [replace(one, work=judging(one.work, name)) for one, name in zip(members, names, strict=True)]
    passes = []
    monkeypatch.setattr(side, "logprobs", lambda forest, run=side.logprobs: passes.append(forest) or run(forest))
    ended = together(members, side)
    assert len(passes) == 2 * 12
    for seed, name in enumerate(names):
        alone = judging(work_on(base, tmp_path / "alone" / name, seed, method={"r": 4}, train={"max_steps": 12}), name)
        alone.folder.mkdir(parents=True)
        progress = fit(alone)
        assert ended[seed].tokens == progress.tokens
        got = members[seed].work.trainable.parameters()
        for key, wanted in alone.trainable.parameters().items():
            torch.testing.assert_close(got[key], wanted, atol=TOLERANCE[dtype], rtol=0)
        assert any(bool(wanted.any()) for key, wanted in alone.trainable.parameters().items() if "lora_B" in key)
        losses = [_losses(folder) for folder in (members[seed].work.folder, alone.folder)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def judging(work, name):
    """A run on judged rows of its own, under another objective."""
    objective = registry.get("objectives", name).bind(entry_config("objective", {"name": name}))
    if name == "sft":
        return work
    refer = refer_in_step(work.trainable) if objective.reference else None
    seed = work.recipe.seed

    def batches(step):
        return [[judged_tree(seed, step, number, row, name) for row in range(2)] for number in range(2)]

    return replace(work, objective=objective, refer=refer, batches=batches, eval_batches=())


def judged_tree(seed, step, number, row, name):
    """A pair; for KTO with a mismatched answer as well."""
    draw = np.random.default_rng([seed, step, number, row])
    grades = (math.nan, 1.0, 0.0, *[math.nan] * (name == "kto"))
    segments = [
        Segment(ids=draw.integers(3, 60, length).astype(np.int32), scored=np.full(length, place > 0))
        for place, length in enumerate(draw.integers(2, 9, len(grades)).tolist())
    ]
    return Tree(segments=tuple(segments), parents=(-1, *[0] * (len(grades) - 1)), grades=grades, row=f"pairs:{row}")


def _pairs(places):
    """Two trees of each."""
    return tuple(place for place in places for _ in range(2))


def _losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
