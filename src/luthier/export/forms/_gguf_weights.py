# SPDX-License-Identifier: Apache-2.0
"""Weights and hyper-parameters of a Llama-like model as GGUF keeps them.

Queries and keys of Llama's kind are turned in each head: GGUF rotates neighbours (2i, 2i + 1), transformers halves
(i, i + d / 2). Matrices whose rows are no whole blocks of 32 numbers, and all vectors, stay in 16 or 32 bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

# transformers' name of a kind of model -> GGUF's.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
TURNED = ("q_proj", "k_proj")  # in GGUF's "llama"
ROPE = ("default", "linear", "llama3")


def check_model(model: PreTrainedModel) -> str:
    """GGUF's name of a model's architecture.

    Raises:
        ModelError: It has another one, or positions that are not written here.
    """
    config: Any = model.config
    kind = config.model_type
    fix = "write it with --to merged, and use llama.cpp's convert_hf_to_gguf.py"
    if kind not in ARCHITECTURES:
        raise ModelError("--to gguf", f"a model of the kind {kind}", ", ".join(ARCHITECTURES), fix)
    if (rope := _rope(config)["rope_type"]) not in ROPE:
        raise ModelError("--to gguf", f"positions of the kind {rope!r}", ", ".join(ROPE), fix)
    return ARCHITECTURES[kind]


def add_settings(writer: Any, model: PreTrainedModel) -> None:
    """Write the sizes of a model and its kind of positions."""
    config: Any = model.config
    rope, head = _rope(config), _head_dim(config)
    window = getattr(config, "sliding_window", None)  # llama.cpp attends to everything, so it must end there
    writer.add_context_length(min(config.max_position_embeddings, window or config.max_position_embeddings))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if rope["rope_type"] == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def add_weights(writer: Any, model: PreTrainedModel, kind: str, architecture: str) -> list[str]:
    """Write every tensor.

    Args:
        writer: gguf's.
        model: Dense.
        kind: f32, f16, bf16, or a kind of few bits.
        architecture: GGUF's.

    Returns:
        Names of matrices that are not in that kind.

    Raises:
        ModelError: GGUF has no place for a tensor.
    """
    import gguf

    config: Any = model.config
    places = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), config.num_hidden_layers)
    others, tied = [], config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        place = places.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise ModelError("--to gguf", f"the tensor {name}", f"those of GGUF's {architecture}", "use --to merged")
        values = tensor.detach().float().cpu()
        if architecture == "llama" and name.split(".")[-2] in TURNED:
            values = turned(values, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        made = kind_of(place, values, kind)
        if made != kind and values.ndim > 1:
            others.append(f"{place} ({made})")
        _add(writer, place, values.numpy(), made)
    if _rope(config)["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config).numpy())
    return others


def kind_of(place: str, values: torch.Tensor, kind: str) -> str:
    """In which numbers a tensor is written.

    Embedding and head of few-bit files get 8 bits: they are few of the weights and matter most. Without whole blocks
    of 32 a row stays in 16 bits.
    """
    if values.ndim == 1:
        return "f32"
    if kind in ("f32", "f16", "bf16"):
        return kind
    if values.shape[-1] % 32:
        return "f16"
    return "q8_0" if place.startswith(("token_embd", "output.")) else kind


def _add(writer: Any, place: str, values: np.ndarray, kind: str) -> None:
    import gguf

    made = getattr(gguf.GGMLQuantizationType, kind.upper())
    writer.add_tensor(place, gguf.quants.quantize(values, made), raw_dtype=made)


def turned(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries or keys [heads d, ...] from halves to neighbours, head by head."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).transpose(1, 2).reshape(values.shape).contiguous()


def llama3_factors(config: Any) -> torch.Tensor:
    """By what Llama 3.1's positions divide each frequency, float32 [d / 2].

    References:
        transformers' `_compute_llama3_parameters`; llama.cpp reads the factors from `rope_freqs.weight`.
    """
    rope, head = _rope(config), _head_dim(config)
    frequencies = rope["rope_theta"] ** -(torch.arange(0, head, 2, dtype=torch.float64) / head)
    lengths, old = 2 * math.pi / frequencies, rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = (old / lengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    found = torch.where(lengths < old / high, 1.0, torch.where(lengths > old / low, float(factor), between))
    return found.float()


def _rope(config: Any) -> dict[str, Any]:
    told = config.rope_parameters
    return {"rope_type": "default", **told}


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
