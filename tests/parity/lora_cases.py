# SPDX-License-Identifier: Apache-2.0
"""Cases that LoRA here and in PEFT must agree on."""

from __future__ import annotations

import torch

from luthier.methods import lora

TOLERANCE = 1e-5

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 58, 9, 7, 0, 31, 12]])

ALL = ("llama", "tied", "qwen2", "gpt2", "neox", "gemma3")

LLAMAS = ("llama", "tied", "qwen2", "gemma3")

# name -> (architectures, Luthier's keys, PEFT's keys where they are spelt differently)
SETTINGS: dict[str, tuple[tuple[str, ...], dict, dict]] = {
    "all-linear": (ALL, {}, {"target_modules": "all-linear"}),
    "rslora": (ALL, {"use_rslora": True, "lora_alpha": 4.0}, {"target_modules": "all-linear"}),
    "alpha is no integer": (("llama",), {"lora_alpha": 3.7}, {"target_modules": "all-linear"}),
    "list": (LLAMAS, {"target_modules": ["q_proj", "v_proj", "down_proj"]}, {}),
    "list, GPT-2": (("gpt2",), {"target_modules": ["c_attn", "mlp.c_proj"]}, {}),
    "list, NeoX": (("neox",), {"target_modules": ["query_key_value", "dense_4h_to_h"]}, {}),
    "regex": (LLAMAS, {"target_modules": r".*layers\.1\..*(q|up)_proj"}, {}),
    "exclude by name": (
        LLAMAS,
        {"exclude_modules": ["k_proj", "mlp.up_proj"]},
        {"target_modules": "all-linear"},
    ),
    "exclude by regex": (
        LLAMAS,
        {"target_modules": ["q_proj", "o_proj"], "exclude_modules": r".*\.0\..*o_proj"},
        {},
    ),
    "one layer": (LLAMAS, {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]}, {}),
    "one layer, GPT-2": (("gpt2",), {"target_modules": ["c_attn", "c_fc"], "layers_to_transform": [0]}, {}),
    "patterns": (
        LLAMAS,
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {r"layers\.0\..*q_proj": 2, "down_proj": 7, "model.layers.1.self_attn.v_proj": 1},
            "alpha_pattern": {"v_proj": 3.5, "^model.layers.0.mlp.down_proj": 64.0},
            "use_rslora": True,
        },
        {},
    ),
    "lora_only biases": (("qwen2", "gpt2", "neox", "llama"), {"bias": "lora_only"}, {"target_modules": "all-linear"}),
    "all biases": (("qwen2", "gpt2", "neox"), {"bias": "all"}, {"target_modules": "all-linear"}),
    "all biases, few targets": (("qwen2",), {"bias": "all", "target_modules": ["o_proj"]}, {}),
    "whole head": (LLAMAS, {"modules_to_save": ["lm_head"]}, {"target_modules": "all-linear"}),
    "whole head and embedding": (
        LLAMAS,
        {"modules_to_save": ["lm_head", "embed_tokens"], "target_modules": ["q_proj"]},
        {},
    ),
    "whole block": (LLAMAS, {"modules_to_save": ["layers.1.mlp"]}, {"target_modules": "all-linear"}),
    "whole norm beside biases": (
        ("gpt2",),
        {"modules_to_save": ["ln_f"], "bias": "all", "target_modules": ["c_attn"]},
        {},
    ),
    "whole final norm": (("llama",), {"modules_to_save": ["model.norm"]}, {"target_modules": "all-linear"}),
    "head": (LLAMAS, {"target_modules": ["lm_head", "q_proj"]}, {}),
    "embedding": (LLAMAS, {"target_modules": ["embed_tokens", "q_proj"]}, {}),
    "embedding and head": (LLAMAS, {"target_modules": ["embed_tokens", "lm_head", "down_proj"]}, {}),
    "embeddings, GPT-2": (("gpt2",), {"target_modules": ["wte", "wpe", "c_attn", "lm_head"]}, {}),
    "embeddings, NeoX": (("neox",), {"target_modules": ["embed_in", "lm_head", "dense"]}, {}),
    "tied update": (
        ("tied", "gemma3"),
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True, "lora_alpha": 1.0},
        {},
    ),
    "tied update by the head": (
        ("tied", "gemma3"),
        {"target_modules": ["lm_head"], "ensure_weight_tying": True, "use_rslora": True, "lora_alpha": 1.0},
        {},
    ),
    "tied whole": (
        ("tied", "gemma3"),
        {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"], "ensure_weight_tying": True},
        {},
    ),
    "dora": (ALL, {"use_dora": True}, {"target_modules": "all-linear"}),
    "dora with rslora": (
        ("qwen2", "gpt2"),
        {"use_dora": True, "use_rslora": True, "bias": "all", "lora_alpha": 4.0},
        {"target_modules": "all-linear"},
    ),
    "dora of embedding and head": (LLAMAS, {"use_dora": True, "target_modules": ["embed_tokens", "lm_head"]}, {}),
    "everything": (
        ("qwen2",),
        {
            "r": 3,
            "use_rslora": True,
            "lora_dropout": 0.25,
            "target_modules": ["q_proj", "k_proj", "down_proj", "embed_tokens"],
            "rank_pattern": {"k_proj": 5},
            "alpha_pattern": {"down_proj": 1.5},
            "bias": "all",
            "modules_to_save": ["lm_head", "model.norm"],
        },
        {},
    ),
}


def our_config(name: str) -> lora.Config:
    return lora.Config(**({"r": 4, "lora_alpha": 16.0} | SETTINGS[name][1]))


@torch.no_grad()
def shake(parameters) -> None:
    for parameter in parameters:
        parameter.add_(0.1 * torch.randn_like(parameter))


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    model.eval()
    return model(input_ids=IDS, use_cache=False).logits
