# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of every family that was tried: those that run forests, and those that are refused and why.

A family is a name in docs/models.md and the settings of its tiny model. Windows are shorter than the sequences,
weights large enough that every token matters, and no family has more positions than half the forest's tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import luthier.models.planted  # noqa: F401 - registers the attention
from luthier.models.load import DENSE

COMMON: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 24,  # the longest branch has 15 tokens, the forest 38
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
EXPERTS |= {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "shared_intermediate_size": 16}
GROUPS = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
LATENT |= {"num_key_value_heads": 4}
ALTERNATE = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
HEAD = {"head_dim": 8}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 14}
WIDE = {"vocab_size_per_layer_input": 120, "hidden_size_per_layer_input": 8, "global_head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24, "n_inner": 48}
STILL = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}  # no dropout: a train-mode forward is exact
QUIET = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "hidden_dropout": 0.0}
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = {"mamba_d_state": 4, "use_mamba_kernels": False, "n_mamba_heads": 2, "attention_head_dim": 16}
MAMBA |= {"num_hidden_layers": 4, "layer_types": ["linear_attention", "hybrid"] * 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 8}
LONG = {"rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
LONG |= {"original_max_position_embeddings": 16, "factor": 2.0}

# Name in docs/models.md -> model type and settings.
PROVEN: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {}),
    "Llama 3 (scaled rope)": ("llama", {"rope_parameters": LLAMA3}),
    "Llama with YaRN": ("llama", {"rope_parameters": YARN}),
    "Llama, tied head": ("llama", {"tie_word_embeddings": True}),
    "Qwen2, Qwen2.5": ("qwen2", {}),
    "Qwen2 with a window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "Qwen2-MoE": ("qwen2_moe", EXPERTS),
    "Qwen3": ("qwen3", HEAD),
    "Qwen3-MoE": ("qwen3_moe", EXPERTS | HEAD),
    "Mistral": ("mistral", {"sliding_window": 5}),
    "Ministral": ("ministral", HEAD | ALTERNATE),
    "Ministral 3": ("ministral3", HEAD | {"sliding_window": 5}),
    "Mixtral": ("mixtral", EXPERTS | {"sliding_window": 5}),
    "Gemma": ("gemma", HEAD),
    "Gemma 2": (
        "gemma2",
        HEAD | ALTERNATE | {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "Gemma 3 (text)": ("gemma3_text", HEAD | ALTERNATE),
    "Gemma 3 (text of the multimodal model)": (
        "gemma3",
        {"text_config": COMMON | HEAD | ALTERNATE, "vision_config": VISION},
    ),
    "Gemma 4 (text)": ("gemma4_text", HEAD | ALTERNATE | WIDE),
    "Gemma 4 (text of the multimodal model)": (
        "gemma4",
        {"text_config": COMMON | HEAD | ALTERNATE | WIDE, "vision_config": VISION, "audio_config": None},
    ),
    "VaultGemma": ("vaultgemma", HEAD | ALTERNATE | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "Phi": ("phi", {}),
    "Phi-3, Phi-4": ("phi3", {"sliding_window": 5}),
    "Phi-3 with long rope": ("phi3", {"rope_parameters": LONG}),
    "Phi-3.5-MoE": ("phimoe", EXPERTS | {"router_jitter_noise": 0.0, "input_jitter_noise": 0.0}),
    "GPT-2": ("gpt2", GPT | STILL),
    "GPT-NeoX, Pythia": ("gpt_neox", QUIET),
    "GPT-BigCode": ("gpt_bigcode", GPT | STILL),
    "GPT-J": ("gptj", GPT | STILL | {"rotary_dim": 4}),
    "CodeGen": ("codegen", GPT | STILL | {"rotary_dim": 4}),
    "OPT": ("opt", QUIET | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "Falcon": ("falcon", QUIET | {"alibi": False}),
    "Falcon, new decoder": ("falcon", QUIET | {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "StableLM": ("stablelm", QUIET),
    "StarCoder2": ("starcoder2", {"sliding_window": 5, "residual_dropout": 0.0, "embedding_dropout": 0.0}),
    "OLMo": ("olmo", {"clip_qkv": 1.0}),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", ALTERNATE),
    "OLMoE": ("olmoe", EXPERTS),
    "Cohere": ("cohere", {"logit_scale": 0.3, "use_qk_norm": True}),
    "Cohere 2": ("cohere2", ALTERNATE | {"logit_scale": 0.3}),
    "Granite": (
        "granite",
        {"logits_scaling": 3.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0, "attention_multiplier": 0.4},
    ),
    "Granite-MoE": ("granitemoe", EXPERTS | {"logits_scaling": 3.0}),
    "Granite-MoE, shared expert": ("granitemoeshared", EXPERTS | {"logits_scaling": 3.0}),
    "SmolLM3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "GLM": ("glm", HEAD),
    "GLM-4": ("glm4", HEAD),
    "GLM-4.5 (MoE)": ("glm4_moe", EXPERTS | GROUPS | HEAD),
    "gpt-oss": ("gpt_oss", EXPERTS | HEAD | ALTERNATE),
    "DeepSeek-V2": ("deepseek_v2", EXPERTS | GROUPS | LATENT | {"head_dim": 4}),
    "DeepSeek-V3": ("deepseek_v3", EXPERTS | GROUPS | LATENT),
    "MiniCPM3": ("minicpm3", LATENT | {"dim_model_base": 16}),
    "MiniMax-M2": ("minimax_m2", EXPERTS | HEAD),
    "EXAONE 4": ("exaone4", ALTERNATE),
    "Seed-OSS": ("seed_oss", HEAD | {"residual_dropout": 0.0, "attention_dropout": 0.0}),
    "Apertus": ("apertus", {}),
    "Arcee": ("arcee", {}),
    "Helium": ("helium", HEAD),
    "Nemotron": ("nemotron", {}),
    "ERNIE 4.5": ("ernie4_5", {}),
    "Hunyuan": ("hunyuan_v1_dense", HEAD),
    "NanoChat": ("nanochat", {}),
    "DiffLlama": ("diffllama", {}),
    "BitNet": ("bitnet", {}),
    "Persimmon": ("persimmon", QUIET),
    "JetMoE": ("jetmoe", EXPERTS | {"kv_channels": 8}),
    "BioGPT": ("biogpt", QUIET | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
}

# Name -> model type, settings, and what the refusal says.
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "BLOOM": ("bloom", {"n_layer": 2, "n_head": 4}, "ALiBi"),
    "MPT": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 24}, "ALiBi"),
    "Falcon with ALiBi": ("falcon", QUIET | {"alibi": True}, "ALiBi"),
    "GPT-Neo": (
        "gpt_neo",
        {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4},
        "its attention is code of its own",
    ),
    "Llama 4 (chunked attention)": (
        "llama4_text",
        EXPERTS | HEAD | {"attention_chunk_size": 8192, "no_rope_layers": [1, 0], "intermediate_size_mlp": 48},
        "neither causal nor a sliding window",
    ),
    "Doge (dynamic mask)": ("doge", {}, "computes with its attention mask"),
    "DeepSeek-V3.2 (sparse attention)": (
        "deepseek_v32",
        EXPERTS | GROUPS | LATENT | {"index_topk": 2048, "index_n_heads": 2, "index_head_dim": 8},
        "computes with its attention mask",
    ),
    "XGLM": ("xglm", {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}, "its attention mask"),
    "Mamba": ("mamba", {"state_size": 4}, "MambaMixer carries a state"),
    "Mamba 2": (
        "mamba2",
        {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1},
        "Mamba2Mixer carries a state",
    ),
    "RWKV": ("rwkv", {"attention_hidden_size": 32, "context_length": 24}, "none of its layers asks for"),
    "xLSTM": ("xlstm", {"num_heads": 2, "num_blocks": 2, "embedding_dim": 32}, "none of its layers asks for"),
    "Jamba": (
        "jamba",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "use_mamba_kernels": False,
            "mamba_d_state": 4,
            "num_experts": 2,
        },
        "JambaMambaMixer carries a state",
    ),
    "Zamba": (
        "zamba",
        MAMBA | {"attention_hidden_size": 64},
        "ZambaMambaMixer carries a state",
    ),
    "Zamba 2": ("zamba2", MAMBA | {"mamba_ngroups": 1, "mamba_headdim": 32}, "Zamba2MambaMixer carries a state"),
    "Bamba": (
        "bamba",
        {"mamba_n_heads": 4, "mamba_d_state": 4, "attn_layer_indices": [1], "mamba_d_head": 16},
        "BambaMixer carries a state",
    ),
    "Falcon-H1": (
        "falcon_h1",
        {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_d_ssm": 64},
        "FalconH1Mixer carries a state",
    ),
    "RecurrentGemma": ("recurrent_gemma", HEAD | {"lru_width": 32}, "carries a state"),
    "LFM2": ("lfm2", {"layer_types": ["conv", "full_attention"]}, "Lfm2ShortConv carries a state"),
    "Qwen3-Next": (
        "qwen3_next",
        EXPERTS | HEAD | LINEAR | {"layer_types": ["linear_attention", "full_attention"]},
        "Qwen3NextGatedDeltaNet carries a state",
    ),
    "Qwen3.5": (
        "qwen3_5_text",
        HEAD | LINEAR | {"layer_types": ["linear_attention", "full_attention"]},
        "Qwen3_5GatedDeltaNet carries a state",
    ),
}


def build(
    model_type: str, settings: dict[str, Any], dtype: torch.dtype = torch.float32, attention: str = "luthier"
) -> PreTrainedModel:
    """Make a tiny random model as `load_model` would load it, ready for forests."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(COMMON | settings))
    attention = DENSE.get(config.model_type, attention)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    _disturb(model)
    return model.to(dtype).eval()


@torch.no_grad()
def _disturb(model: PreTrainedModel) -> None:
    """Move what starts at 0 or 1 (biases, norms, sinks, positions): a part that a forest forgot must show."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and not name.endswith(("A_log", "dt_bias")):
            parameter.add_(0.1 * torch.randn_like(parameter))
