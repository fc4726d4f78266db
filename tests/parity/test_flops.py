# SPDX-License-Identifier: Apache-2.0
"""Operations are counted as `torch.utils.flop_counter` counts them of a plain model, with eager attention and PEFT."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.encoders import encoder, folder_of
from tests.tiny import tiny
from torch.utils.flop_counter import FlopCounterMode

from luthier.core import registry
from luthier.engine.flops import count_rates
from luthier.models.planted import NAME

pytestmark = pytest.mark.parity
TOKENS = 19


def _plain_flops(model: torch.nn.Module) -> int:
    """One forward and backward of one sequence whose tokens are all scored and all see each other (masked later)."""
    ids = torch.arange(TOKENS)[None] % 50
    model.train()
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}  # torch leaves it out
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        model(input_ids=ids, use_cache=False).logits.float().logsumexp(-1).sum().backward()
    return counter.get_total_flops()


def _counted(model: torch.nn.Module, method: str, keys: dict) -> int:
    model.set_attn_implementation(NAME)
    module = registry.get("methods", method)
    module.apply(model, module.Config(**keys))
    return count_rates(model).total(TOKENS, TOKENS, TOKENS * TOKENS, 1)


@pytest.mark.parametrize("family", ["llama", "tied", "qwen2", "gpt2", "neox", "gemma3"])
def test_full_fine_tuning(family):
    plain = tiny(family)
    plain.set_attn_implementation("eager")
    assert _counted(tiny(family), "full", {}) == _plain_flops(plain)


LORA = {
    "all": {"target_modules": "all-linear"},
    "queries": {"target_modules": ["q_proj"]},  # the first layer's keys and values need no gradient
    "values": {"target_modules": ["v_proj"]},
    "down": {"target_modules": ["down_proj"]},
    "upper": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},  # nothing flows below layer 1
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("name", LORA)
def test_lora(name):
    keys = {"r": 4, **LORA[name]}
    plain = tiny("llama")
    plain.set_attn_implementation("eager")
    assert _counted(tiny("llama"), "lora", keys) == _plain_flops(get_peft_model(plain, LoraConfig(**keys)))


OWN = {
    "starts": {"init_lora_weights": "pissa"},
    "starts with rsLoRA": {"init_lora_weights": "olora", "use_rslora": True, "target_modules": ["q_proj", "lm_head"]},
    "dora": {"use_dora": True},
    "dora, values": {"use_dora": True, "target_modules": ["v_proj"]},
    "dora, head": {"use_dora": True, "target_modules": ["q_proj", "lm_head"]},
    "dora, embedding": {"use_dora": True, "target_modules": ["embed_tokens", "down_proj"]},
    "dora, dropout": {"use_dora": True, "lora_dropout": 0.2},
}


@pytest.mark.parametrize("name", OWN)
def test_what_peft_computes_in_another_way(name):
    """DoRA's lengths cost rank r once a pass, not a second matrix; a start from the base is an update of rank 2 r."""
    keys, plain, module = {"r": 4, **OWN[name]}, tiny("llama"), registry.get("methods", "lora")
    plain.set_attn_implementation("eager")
    module.apply(plain, module.Config(**keys))
    assert _counted(tiny("llama"), "lora", keys) == _plain_flops(plain)


OTHERS = [
    ("freeze", {"freeze_trainable_layers": 1}),
    ("bitfit", {"add_biases": True}),
    ("norm", {}),
    ("ia3", {}),
    ("adapter", {"placement": "houlsby"}),
    ("lora_fa", {"r": 4}),
    ("lora_fa", {"r": 4, "target_modules": ["v_proj", "lm_head"]}),
    ("vera", {"r": 8}),
    ("vera", {"r": 8, "target_modules": ["down_proj"], "layers_to_transform": [1]}),
    ("loha", {"r": 3}),  # as products of r^2 columns and rows
    ("loha", {"r": 6}),  # the whole matrix, made once a pass
    ("lokr", {"r": 2}),
    ("lokr", {"r": 8}),
    ("lokr", {"r": 1, "decompose_both": True, "target_modules": ["q_proj", "down_proj"]}),
    ("adapter", {"placement": "parallel", "layers_to_transform": [1]}),
]


@pytest.mark.parametrize(("method", "keys"), OTHERS)
def test_other_methods(method, keys):
    plain, module = tiny("llama"), registry.get("methods", method)
    plain.set_attn_implementation("eager")
    module.apply(plain, module.Config(**keys))
    assert _counted(tiny("llama"), method, keys) == _plain_flops(plain)


ENCODERS = {"full": ("BERT", {}), "lora": ("ModernBERT", {"r": 4, "target_modules": "all-linear"})}


@pytest.mark.parametrize("method", ENCODERS)
def test_encoders_see_both_ways(method, tmp_path):
    name, keys = ENCODERS[method]
    plain, ours = (encoder(folder_of(tmp_path, name), "FEATURE_EXTRACTION") for _ in range(2))
    module = registry.get("methods", method)
    for model in (plain, ours):
        module.apply(model, module.Config(**keys))
    plain.set_attn_implementation("eager")
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        plain.train()(input_ids=3 + torch.arange(TOKENS)[None]).last_hidden_state.square().sum().backward()
    counted = count_rates(ours).total(TOKENS, 0, TOKENS * (TOKENS + 1) // 2, 1)
    pooler = 6 * 32 * 32 if method == "full" else 0  # BERT's runs once, and nothing reads it
    assert abs(counted - counter.get_total_flops()) <= pooler
