# SPDX-License-Identifier: Apache-2.0
"""The count of operations: experts, embeddings and tied heads by hand, summary.json, and no side effect."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.runs import tree
from tests.tiny import tiny

import luthier
from luthier.core import registry
from luthier.core.types import Segment, Tree
from luthier.engine.flops import Rates, count_rates
from luthier.kernels.attention import visible
from luthier.kernels.forest import plant
from luthier.models.planted import NAME


def _applied(family, method, **keys):
    model = tiny(family)
    model.set_attn_implementation(NAME)
    module = registry.get("methods", method)
    module.apply(model, module.Config(**keys))
    return model


def test_pairs_are_those_that_are_visible():
    def some(length):
        return Segment(ids=np.zeros(length, np.int32), scored=np.ones(length, np.bool_))

    forest = plant(
        [Tree(segments=(some(5), some(3), some(4), some(2)), parents=(-1, 0, 0, 1)), Tree(segments=(some(7),))]
    )
    assert forest.num_pairs == int(visible(forest).sum())
    if forest.is_flat:  # what an encoder sees
        assert 2 * forest.num_pairs - forest.num_tokens == int(visible(forest, causal=False).sum())


def test_a_token_runs_through_its_experts_alone():
    model = _applied("experts", "full")
    layer = model.model.layers[0].mlp
    matrices = [weight.numel() / len(weight) for weight in layer.experts.parameters()]
    one = sum(matrices) * model.config.num_experts_per_tok
    shared = sum(p.numel() for p in layer.shared_expert.parameters()) + layer.shared_expert_gate.weight.numel()
    attention = sum(p.numel() for p in model.model.layers[0].self_attn.parameters() if p.ndim == 2)
    layers = model.config.num_hidden_layers
    # a product each forward, for the input (not of the first layer's attention: nothing to train but the embedding,
    # which does) and for the weight
    assert count_rates(model).per_token == pytest.approx(2 * 3 * layers * (one + shared + attention))


def test_an_adapted_embedding_and_its_tied_head():
    plain = count_rates(_applied("tied", "lora", r=4, target_modules=["q_proj"]))
    model = _applied("tied", "lora", r=4, target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)
    both = count_rates(model)
    hidden, words = model.config.hidden_size, model.config.vocab_size
    # the head: frozen 2 products, A and B of its update 3 each (they train through the embedding's)
    assert both.per_scored == 2 * (2 * hidden * words + 3 * 4 * (hidden + words))
    assert plain.per_scored == 2 * 2 * hidden * words
    assert both.per_token > plain.per_token


def test_counting_changes_nothing():
    model = _applied("llama", "lora", r=4, lora_dropout=0.5).train()
    torch.manual_seed(3)
    first = torch.rand(2)
    torch.manual_seed(3)
    count_rates(model)
    assert torch.equal(torch.rand(2), first)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_summary_holds_the_count(tiny_llama, alpaca_file, tmp_path):
    result = luthier.train(tree(tiny_llama, alpaca_file, tmp_path / "run", train={"max_steps": 2}))
    rates = count_rates(result.model)
    assert isinstance(rates, Rates)
    summary = result.summary
    least = rates.total(summary["tokens"], summary["scored_tokens"], summary["tokens"], 0)
    most = rates.total(summary["tokens"], summary["scored_tokens"], summary["tokens"] * 96, 0)
    assert least < summary["flops"] < most
    full = luthier.train(
        tree(tiny_llama, alpaca_file, tmp_path / "full", train={"max_steps": 2}, method={"name": "full"})
    )
    parameters = sum(p.numel() for p in full.model.parameters()) - full.model.get_input_embeddings().weight.numel()
    assert full.summary["flops"] == pytest.approx(6 * parameters * full.summary["tokens"], rel=0.35)
    assert full.summary["flops"] > summary["flops"]
