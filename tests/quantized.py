# SPDX-License-Identifier: Apache-2.0
"""What tests of quantised bases share: codes made in the plainest way, without bitsandbytes, and models around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from luthier.kernels.quantized import Blocks, Quantized, Rows
from luthier.models.ties import head_of

# QLoRA, appendix E.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def four_bits(weight: torch.Tensor, block: int = 64) -> Blocks:
    """The nearest NF4 codes of a matrix."""
    flat, table = weight.detach().double().flatten(), torch.tensor(NF4)
    absmax = torch.stack([part.abs().max() for part in flat.split(block)]).float()
    scaled = flat / absmax.double().repeat_interleave(block)[: len(flat)]
    codes = (scaled[:, None] - table.double()).abs().argmin(1).to(torch.uint8)
    codes = torch.cat([codes, codes.new_zeros(len(codes) % 2)])
    packed = codes[::2] << 4 | codes[1::2]
    return Blocks(shape=tuple(weight.shape), codes=packed, table=table, block=block, absmax=absmax)


def eight_bits(weight: torch.Tensor) -> Rows:
    """Codes of a matrix with a scale for each row."""
    absmax = weight.detach().float().abs().amax(1)
    codes = (weight.detach() / absmax[:, None] * 127).round().to(torch.int8)
    return Rows(shape=tuple(weight.shape), codes=codes, absmax=absmax)


def quantize_(model: Any, kind: str = "nf4") -> Any:
    """Put codes in the place of a model's linears, but for its head, and return it."""
    make = four_bits if kind == "nf4" else eight_bits
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head_of(model):
            matrix = Quantized(make(module.weight), module.weight.dtype)
            module.weight = nn.Parameter(matrix, requires_grad=False)
    return model
