# SPDX-License-Identifier: Apache-2.0
"""Adapters side by side: the gradients and the loss of each are those that its own model gives it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.tiny import tiny

from luthier.core import registry
from luthier.core.errors import ModelError
from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.models.backbone import scored_logprobs
from luthier.models.draws import Draws
from luthier.models.planted import NAME
from luthier.models.probe_many import prove_side_by_side, shares_passes
from luthier.models.side_by_side import ManyLinear, SideBySide, member_of

pytestmark = pytest.mark.parity

EIGHT = [{"r": r, "use_rslora": rslora} for rslora in (False, True) for r in (2, 4, 8, 16)]
KINDS = {
    "eight ranks": EIGHT,
    "dropout": [{"r": 4, "lora_dropout": 0.3}, {"r": 4}, {"r": 8, "lora_dropout": 0.1}],
    "biases": [{"r": 4, "bias": "all"}, {"r": 4}, {"r": 8, "bias": "lora_only"}],
    "targets": [{"r": 4, "target_modules": "attention"}, {"r": 4, "target_modules": "mlp"}, {"r": 2}],
    "embedding and head": [{"r": 4, "target_modules": ["embed_tokens", "lm_head"], "lora_dropout": 0.2}, {"r": 4}],
    "whole modules": [{"r": 4, "modules_to_save": ("lm_head", "norm")}, {"r": 4, "modules_to_save": ("embed_tokens",)}],
    "tied update": [{"r": 4, "target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}, {"r": 4}],
}
# Every method that says SHARES_BASE, beside LoRA and beside itself.
OTHERS = {
    "adapter": [
        {"name": "adapter", "placement": "houlsby", "dropout": 0.2},
        {"name": "adapter", "placement": "parallel", "non_linearity": "gelu"},
        {"r": 4, "lora_dropout": 0.1},
    ],
    "ia3": [{"name": "ia3"}, {"name": "ia3", "target_modules": "all-linear"}, {"r": 4}],
    "norm": [{"name": "norm"}, {"name": "norm", "target_modules": ["q_norm", "norm"]}, {"r": 4}],
    "lora_fa": [{"name": "lora_fa", "r": 4, "lora_dropout": 0.1}, {"name": "lora_fa", "r": 2}, {"r": 4}],
    "vera": [{"name": "vera", "r": 8}, {"name": "vera", "r": 40, "vera_dropout": 0.2}, {"r": 4}],
    "loha": [{"name": "loha", "r": 3, "rank_dropout": 0.2}, {"name": "loha", "r": 6, "module_dropout": 0.3}, {"r": 4}],
    "lokr": [{"name": "lokr", "r": 2, "rank_dropout": 0.2}, {"name": "lokr", "decompose_both": True}, {"r": 4}],
    "bitfit": [{"name": "bitfit"}, {"name": "bitfit", "add_biases": True}, {"r": 4, "target_modules": "mlp"}],
}
KINDS |= OTHERS
KINDS["dora"] = [{"r": 4, "use_dora": True}, {"r": 4}, {"r": 2, "use_dora": True, "lora_dropout": 0.2}]
KINDS["pissa"] = [{"r": 4, "init_lora_weights": "pissa"}, {"r": 4}, {"r": 2, "init_lora_weights": "olora"}]
FAMILY = {"biases": "qwen2", "tied update": "tied", "bitfit": "qwen2", "norm": "gemma3"}


def members_of(family: str, configs: list[dict], dtype=torch.float64):
    """Base, members and draws, each member as if it were alone after its own seed."""
    base = tiny(family).to(dtype)
    base.set_attn_implementation(NAME)
    members, draws = [], []
    for seed, config in enumerate(configs):
        torch.manual_seed(seed)
        member = member_of(base)
        method = registry.get("methods", config.get("name", "lora"))
        words = {key: value for key, value in config.items() if key != "name"}
        trainable = method.apply(member, method.Config(**words))
        for name, parameter in trainable.parameters().items():
            if "lora_B" in name or "lora_embedding_A" in name:  # zero would leave the other without a gradient
                torch.nn.init.normal_(parameter, std=0.1)
            elif "lora" not in name:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        member.train()
        members.append(trainable)
        draws.append(Draws())
    return base, members, draws


def trees_of(place: int, count: int = 3) -> list[Tree]:
    draw, found = np.random.default_rng(place), []
    for _ in range(count):
        length = int(draw.integers(3, 14))
        scored = draw.random(length) < 0.6
        found.append(Tree(segments=(Segment(ids=draw.integers(0, 60, length).astype(np.int32), scored=scored),)))
    return found


def gradients(trainable) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in trainable.parameters().items()}
    for parameter in trainable.parameters().values():
        parameter.grad = None
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in found.values())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_equals_each_adapter_alone(kind):
    base, members, draws = members_of(FAMILY.get(kind, "llama"), KINDS[kind])
    alone_losses, alone = [], []
    for place, (member, draw) in enumerate(zip(members, draws, strict=True)):
        started = draw.state
        with draw:
            loss = -scored_logprobs(member.model, plant(trees_of(place))).sum()
            loss.backward()
        alone_losses.append(loss.detach())
        alone.append(gradients(member))
        draw.state = started
    side = SideBySide(base, [member.model for member in members], draws)
    forest = plant([replace(tree, adapter=k) for k in range(len(members)) for tree in trees_of(k)])
    logps = side.logprobs(forest)
    (-logps.sum()).backward()
    for place, (member, share) in enumerate(zip(members, forest.shares(len(members)), strict=True)):
        torch.testing.assert_close(-logps[share.scored].sum().detach(), alone_losses[place], atol=1e-11, rtol=0)
        got = gradients(member)
        for name, wanted in alone[place].items():
            if wanted is None:
                assert got[name] is None or not got[name].abs().max() > 0, name
            else:
                torch.testing.assert_close(got[name], wanted, atol=1e-11, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert all(parameter.grad is None for parameter in base.parameters())


def test_every_method_that_shares_a_base_is_here():
    sharing = {name for name in registry.entries("methods") if getattr(registry.get("methods", name), "SHARES_BASE", 0)}
    assert sharing - {"lora"} == set(OTHERS)


@pytest.mark.parametrize("family", ["llama", "tied", "qwen2", "gpt2", "neox", "gemma3"])
def test_every_family_is_proven(family):
    targets = "all-linear"
    base, members, draws = members_of(family, [{"r": 4, "target_modules": targets, "bias": "all"}, {"r": 2}])
    assert shares_passes(base) is None
    before = {name: p.detach().clone() for member in members for name, p in member.parameters().items()}
    side = SideBySide(base, [member.model for member in members], draws)
    assert prove_side_by_side(side) < 1e-9
    after = {name: p for member in members for name, p in member.parameters().items()}
    assert all(torch.equal(before[name], after[name]) for name in before), "the proof moved a parameter"
    assert any(isinstance(module, ManyLinear) for module in side.trunk.modules())


def test_frozen_experts_are_shared():
    targets = {"target_modules": "attention"}
    base, members, draws = members_of("experts", [{"r": 2} | targets, {"r": 4} | targets], torch.float32)
    assert prove_side_by_side(SideBySide(base, [member.model for member in members], draws)) < 1e-4


def test_a_layer_that_gets_some_of_the_tokens_is_refused():
    base, members, draws = members_of("llama", [{"r": 2}, {"r": 2}])
    side = SideBySide(base, [member.model for member in members], draws)
    side.logprobs(plant([replace(tree, adapter=k) for k in range(2) for tree in trees_of(k)]))
    layer = next(module for module in side.trunk.modules() if isinstance(module, ManyLinear))
    with pytest.raises(ModelError, match=r"an adapted Linear that gets 3 of \d+ tokens"):
        layer(torch.zeros(1, 3, 32, dtype=torch.float64))


def test_dropout_of_the_base_is_refused():
    base = tiny("llama")
    base.set_attn_implementation(NAME)
    assert shares_passes(base) is None
    base.model.layers[0].self_attn.attention_dropout = 0.1
    assert "dropout of its own (model.layers.0.self_attn)" in shares_passes(base)


def test_a_member_shares_every_matrix():
    base, members, _ = members_of("llama", [{"r": 4}, {"r": 4}])
    frozen = {id(p) for p in base.parameters() if p.ndim > 1}
    for member in members:
        own = [p for p in member.model.parameters() if p.ndim > 1 and not p.requires_grad]
        assert {id(p) for p in own} == frozen


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_of_a_broken_adapter_reaches_another(dtype, native, monkeypatch):
    if not native:
        monkeypatch.setattr("luthier.kernels.native.usable", lambda *_: False)
    found = []
    for broken in (False, True):
        base, members, draws = members_of("llama", EIGHT[:3], dtype)
        if broken:
            with torch.no_grad():
                for parameter in members[1].parameters().values():
                    parameter[0, 0] = float("nan")
        side = SideBySide(base, [member.model for member in members], draws)
        forest = plant([replace(tree, adapter=k) for k in range(3) for tree in trees_of(k)])
        logps = side.logprobs(forest)
        shares = forest.shares(3)
        sum(-logps[share.scored].sum() for share in shares).backward()
        assert torch.isfinite(logps[shares[1].scored]).all() != broken
        found.append([logps[shares[k].scored].detach() for k in (0, 2)])
        found[-1] += [gradient for k in (0, 2) for gradient in gradients(members[k]).values()]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_as_many_tokens_as_heads_are_told_apart():
    """Gemma 3's norms of queries see [1, heads, T, D]: with T = heads the shape does not say which is which."""
    base, members, draws = members_of("gemma3", [{"name": "norm"}, {"name": "norm"}])
    side = SideBySide(base, [member.model for member in members], draws)
    for count in (3, 4):  # the first pass is clear, the second has as many tokens as heads
        ids = np.arange(5, 5 + count, dtype=np.int32)
        halves = [Tree(segments=(Segment(ids=part, scored=part > 0),)) for part in (ids[:2], ids[2:])]
        logps = side.logprobs(plant([replace(tree, adapter=k) for k, tree in enumerate(halves)]))
    alone = torch.cat([scored_logprobs(m.model, plant([t])) for m, t in zip(members, halves, strict=True)])
    torch.testing.assert_close(logps, alone, atol=1e-11, rtol=0)
