# SPDX-License-Identifier: Apache-2.0
"""Preference objectives through the whole model: prompts shared or repeated, steps cut anyhow, references asked anyhow.

The oracle is transformers alone in float64: padded batches, full logits, the papers' formulas written out.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from luthier.core import registry
from luthier.core.types import Segment, Tree, unshared
from luthier.engine.reference import refer_in_step
from luthier.engine.step import accumulate
from luthier.methods import lora
from luthier.models import load_model
from luthier.recipe import Model, entry_config

NAN = math.nan
PAIRED = ("dpo", "ipo", "simpo", "orpo", "cpo")


@pytest.fixture
def policy(tiny_llama):
    """A LoRA policy that has moved: log-ratios are not 0."""
    return made(tiny_llama, torch.float32)


def made(folder, dtype):
    model = load_model(Model(model_name_or_path=str(folder)), dtype)
    torch.manual_seed(0)
    trainable = lora.apply(model, lora.Config(r=4))
    for name, parameter in trainable.parameters().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.train()
    return trainable


def trees(count=6, mismatched=False):
    """Pairs with prompts of 2 to 20 tokens and answers of 1 to 9, of which the first may be a header."""
    draw = np.random.default_rng(0)

    def segment(length, scored):
        return Segment(ids=draw.integers(0, 300, length).astype(np.int32), scored=np.full(length, scored))

    found = []
    for row in range(count):
        prompt = segment(int(draw.integers(2, 21)), False)
        answers = [segment(int(draw.integers(1, 10)), True) for _ in range(2)]
        grades = (NAN, 1.0, 0.0) if row % 2 else (NAN, 0.0, 1.0)
        if mismatched:
            answers.append(segment(int(draw.integers(1, 10)), True))
            grades = (*grades, NAN)
        parents = (-1, *[0] * len(answers))
        found.append(Tree(segments=(prompt, *answers), parents=parents, grades=grades, row=f"pairs:{row}"))
    return found


def bound(name, **keys):
    return registry.get("objectives", name).bind(entry_config("objective", {"name": name, **keys}))


def gradients(trainable, objective, micro_batches):
    for parameter in trainable.parameters().values():
        parameter.grad = None
    refer = refer_in_step(trainable) if objective.reference else None
    result = accumulate(trainable.model, objective, micro_batches, refer)
    return result, {name: parameter.grad.clone() for name, parameter in trainable.parameters().items()}


def difference(one, other):
    assert all(gradient.abs().max() > 0 for gradient in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("name", [*PAIRED, "kto"])
def test_shared_prompts_are_repeated_prompts(policy, name):
    rows = trees(mismatched=name == "kto")
    objective = bound(name)
    shared, wanted = gradients(policy, objective, [rows])
    repeated, found = gradients(policy, objective, [[unshared(tree) for tree in rows]])
    assert shared.loss == pytest.approx(repeated.loss, abs=1e-5)
    assert difference(wanted, found) <= 1e-5
    assert repeated.tokens > shared.tokens


@pytest.mark.parametrize("name", [*PAIRED, "kto"])
@pytest.mark.parametrize("cut", [[1, 5], [2, 2, 2], [1] * 6])
def test_any_split_into_micro_batches(policy, name, cut):
    rows = trees(mismatched=name == "kto")
    objective = bound(name)
    whole, wanted = gradients(policy, objective, [rows])
    ends = np.cumsum([0, *cut])
    parts, found = gradients(policy, objective, [rows[a:b] for a, b in pairwise(ends)])
    assert parts.units == whole.units
    assert parts.loss == pytest.approx(whole.loss, abs=1e-5)
    assert difference(wanted, found) <= 1e-5
    assert {k: parts.sums[k] for k in parts.sums} == pytest.approx(whole.sums, abs=1e-3)


def padded_sums(trainable, rows, reference):
    """Log-probability and length of each answer by transformers alone, [pairs, 2], the better one first."""
    model = trainable.model
    branches = []
    for tree in rows:
        order = sorted((1, 2), key=lambda place: -tree.grades[place])
        branches += [(tree.segments[0].ids, tree.segments[place].ids) for place in order]
    longest = max(len(prompt) + len(answer) for prompt, answer in branches)
    ids = torch.zeros(len(branches), longest, dtype=torch.int64)
    mask, scored = torch.zeros_like(ids), torch.zeros(ids.shape, dtype=torch.bool)
    for place, (prompt, answer) in enumerate(branches):
        tokens = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))
        ids[place, : len(tokens)], mask[place, : len(tokens)] = tokens, 1
        scored[place, len(prompt) : len(tokens)] = True
    model.set_attn_implementation("eager")
    try:
        if reference:
            with torch.no_grad(), trainable.disabled():
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        else:
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        model.set_attn_implementation("luthier")
    logps = torch.log_softmax(logits[:, :-1].double(), -1).gather(2, ids[:, 1:, None])[..., 0]
    logps = torch.where(scored[:, 1:], logps, 0.0)
    return logps.sum(1).reshape(-1, 2), scored.sum(1).reshape(-1, 2)


def papers(name, sums, lengths, reference):
    """The loss as its paper writes it, at each objective's default keys."""
    chosen, rejected = sums.T
    mean = sums / lengths
    if name == "dpo":
        ratio = chosen - rejected - (reference[:, 0] - reference[:, 1])
        return -torch.log(torch.sigmoid(0.1 * ratio)).mean()
    if name == "ipo":
        ratios = (sums - reference) / lengths
        return ((ratios[:, 0] - ratios[:, 1] - 1 / (2 * 0.1)) ** 2).mean()
    if name == "simpo":
        return -torch.log(torch.sigmoid(2.0 * (mean[:, 0] - mean[:, 1]) - 2.0 * 0.5)).mean()
    if name == "cpo":
        return (-torch.log(torch.sigmoid(0.1 * (chosen - rejected))) - mean[:, 0]).mean()
    odds = [torch.log(torch.exp(p) / (1 - torch.exp(p))) for p in mean.T]
    return (-mean[:, 0] - 0.1 * torch.log(torch.sigmoid(odds[0] - odds[1]))).mean()


@pytest.mark.parametrize("name", ["dpo", "ipo", "orpo"])
def test_the_papers_formula_on_transformers_alone(tiny_llama, name):
    policy = made(tiny_llama, torch.float64)
    rows = trees()
    result, found = gradients(policy, bound(name), [rows])
    for parameter in policy.parameters().values():
        parameter.grad = None
    sums, lengths = padded_sums(policy, rows, reference=False)
    reference, _ = padded_sums(policy, rows, reference=True)
    loss = papers(name, sums, lengths, reference)
    loss.backward()
    wanted = {key: parameter.grad.clone() for key, parameter in policy.parameters().items()}
    assert result.loss == pytest.approx(float(loss.detach()), abs=1e-6)
    assert difference(found, wanted) <= 1e-6


def test_the_start_of_dpo_is_ln_2(tiny_llama):
    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    fresh = lora.apply(model, lora.Config(r=4))
    objective = bound("dpo")
    for parameter in fresh.parameters().values():
        parameter.grad = None
    result = accumulate(model.train(), objective, [trees()], refer_in_step(fresh))
    assert result.loss == pytest.approx(math.log(2), abs=1e-6)
    assert result.sums["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert objective.loss_at_start == pytest.approx(math.log(2))
    assert F.logsigmoid(torch.zeros(1)).item() == pytest.approx(-math.log(2))
