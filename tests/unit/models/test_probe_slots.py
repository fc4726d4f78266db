# SPDX-License-Identifier: Apache-2.0
"""Served passes are proven against each adapter's own forward; a cache that is wrong is found."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny

from luthier.core import registry
from luthier.core.errors import ModelError
from luthier.models import planted, slots
from luthier.models.adaption import AdaptionPrompt
from luthier.models.draws import Draws
from luthier.models.probe_slots import prove_slots
from luthier.models.side_by_side import SideBySide, member_of

LORAS = [None, {"r": 4, "target_modules": "attention"}, {"r": 2, "target_modules": "attention", "use_rslora": True}]


def side_of(family: str, configs=LORAS) -> SideBySide:
    base = tiny(family).requires_grad_(False)
    base.set_attn_implementation(planted.NAME)
    members = []
    for config in configs:
        member = member_of(base)
        if config:
            method = registry.get("methods", config.get("name", "lora"))
            words = {key: value for key, value in config.items() if key != "name"}
            for parameter in method.apply(member, method.Config(**words)).parameters().values():
                parameter.data.add_(0.2 * torch.randn_like(parameter))
        members.append(member.eval())
    side = SideBySide(base, members, [Draws() for _ in members])
    side.trunk.eval()
    side.trunk.set_attn_implementation(slots.NAME)
    return side


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "neox", "gemma3", "experts"])
def test_families_are_proven(family):
    assert prove_slots(side_of(family)) < 1e-4


def test_other_methods_beside_each_other():
    kinds = [
        {"name": "ia3"},
        {"name": "adapter"},
        {"r": 4, "modules_to_save": ("lm_head",)},
        {"r": 2, "use_dora": True},
    ]
    assert prove_slots(side_of("llama", [*kinds, None])) < 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_what_stands_before_the_tokens_or_inside_the_attention_runs_beside_others(family):
    kinds = [
        {"name": "prefix", "num_virtual_tokens": 3},
        {"r": 4, "target_modules": "attention"},
        {"name": "prompt", "num_virtual_tokens": 5},
        {"name": "llama_adapter", "adapter_len": 4, "adapter_layers": 1},
    ]
    side = side_of(family, [*kinds, None])
    assert prove_slots(side) < 1e-4
    side.members[0].prompt_encoder.encoder.prompt_embeddings.data.add_(0.5)
    assert prove_slots(side) < 1e-4
    prompt = next(module for module in side.members[3].modules() if isinstance(module, AdaptionPrompt))
    prompt.active = False  # in the member's own forward and on the trunk
    assert prove_slots(side) < 1e-4


def test_a_token_at_a_wrong_position_is_found(monkeypatch):
    right = slots.Slots.of

    def late(self, module, key, value):
        if self.layout.pieces[-1].begin == 9:
            key.mul_(0.5)
        return right(self, module, key, value)

    monkeypatch.setattr(slots.Slots, "of", late)
    with pytest.raises(ModelError, match="served, it differs by"):
        prove_slots(side_of("llama"))


def test_adapters_in_another_order_are_found(monkeypatch):
    side = side_of("llama")
    side.members[1], side.members[2] = side.members[2], side.members[1]
    with pytest.raises(ModelError, match="served, it differs by"):
        prove_slots(side)
