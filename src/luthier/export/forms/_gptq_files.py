# SPDX-License-Identifier: Apache-2.0
"""Codes as they stand on disk, in the two layouts that vLLM, SGLang and transformers read.

    gptq                qweight [K b / 32, N], qzeros [G, N b / 32] (one less), scales [G, N] float16, g_idx [K]
    compressed-tensors  weight_packed [N, K b / 32], weight_scale [N, G], weight_shape; even codes, groups of neighbours

In both, the first of the codes in a 32-bit word stands in its lowest bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from luthier.export.gptq import Codes, Rounding


def pack(codes: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Codes in 32-bit words along an axis, int32.

    Example:
        >>> pack(torch.tensor([[1, 2, 0, 0, 0, 0, 0, 15]]), 4, 1)
        tensor([[-268435423]], dtype=torch.int32)
    """
    each = 32 // bits
    parts = codes.long().unflatten(dim, (-1, each))
    words = sum(part << bits * i for i, part in enumerate(parts.unbind(dim + 1)))
    assert isinstance(words, torch.Tensor)
    return torch.where(words >= 2**31, words - 2**32, words).int().contiguous()


def gptq_tensors(codes: Codes, how: Rounding) -> dict[str, torch.Tensor]:
    """One matrix in the layout of GPTQ's authors, of AutoGPTQ and gptqmodel (their `checkpoint_format: gptq`)."""
    return {
        "qweight": pack(codes.codes.T, how.bits, 0),
        "qzeros": pack(codes.zeros.T - 1, how.bits, 1),
        "scales": codes.scales.T.half().contiguous(),
        "g_idx": codes.groups.int(),
    }


def gptq_config(how: Rounding) -> dict[str, Any]:
    """`quantization_config` of config.json for :func:`gptq_tensors`."""
    return {
        "quant_method": "gptq",
        "bits": how.bits,
        "group_size": how.group_size,
        "desc_act": how.desc_act,
        "sym": how.sym,
        "damp_percent": how.damp_percent,
        "static_groups": how.static_groups,
        "true_sequential": True,
        "lm_head": False,
        "checkpoint_format": "gptq",
    }


def compressed_tensors(codes: Codes, how: Rounding, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """One matrix in compressed-tensors' layout `pack-quantized`.

    Args:
        codes: The matrix.
        how: Its bits.
        dtype: Of the scales: that of the model.
    """
    return {
        "weight_packed": pack(codes.codes, how.bits, 1),
        "weight_scale": codes.scales.to(dtype).contiguous(),
        "weight_shape": torch.tensor(codes.codes.shape, dtype=torch.int64),
    }


def compressed_config(how: Rounding, ignore: list[str]) -> dict[str, Any]:
    """`quantization_config` of config.json for :func:`compressed_tensors`.

    Args:
        how: Bits and groups.
        ignore: Names of linears that stay as they are.
    """
    weights = {
        "num_bits": how.bits,
        "type": "int",
        "symmetric": how.sym,
        "strategy": "group",
        "group_size": how.group_size,
        "actorder": "weight" if how.desc_act else None,
        "dynamic": False,
        "observer": "minmax",
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignore,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
