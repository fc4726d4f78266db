# SPDX-License-Identifier: Apache-2.0
"""Tiny random models for tests of methods and exports: vocabulary 60, hidden 32, two layers, made once and copied."""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Weights are large enough that attention is not uniform; key-value heads are fewer than heads (GQA).
COMMON: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
STILL = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
EXPERTS |= {"shared_expert_intermediate_size": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {"tie_word_embeddings": False}),  # biases on q, k, v
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64} | STILL),  # Conv1D, biases, tied
    "neox": ("gpt_neox", {"hidden_dropout": 0.0, "attention_dropout": 0.0}),  # one matrix for q, k, v; biases
    "gemma3": ("gemma3_text", {"head_dim": 8, "query_pre_attn_scalar": 8}),  # scaled embedding, tied
    "experts": ("qwen2_moe", EXPERTS),
}


def tiny(family: str) -> PreTrainedModel:
    """A fresh copy of one family's model, the same numbers each time, biases and norms drawn at random too."""
    return copy.deepcopy(_made(family))


@cache
def _made(family: str) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(COMMON | settings)), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()
