# SPDX-License-Identifier: Apache-2.0
"""A basis in few bits: whole numbers between the least and the largest of each group of 256, as Q-GaLore keeps it.

    scale = max(largest - least, 1e-5) / (2^b - 1)        zero = round(-least / scale)
    code = round(x / scale) + zero, from 0 to 2^b - 1     x ~ scale (code - zero)

Groups of one sign reach to 0 here: their zero is a code, or the published code would cut what is beyond the range.

Reference:
    Zhang et al., Q-GaLore: Quantized GaLore with INT4 Projection and Layer-Adaptive Low-Rank Gradients,
    arXiv 2407.08296, section 3.2 and the published code's `_quantize`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP = 256  # numbers that share a scale, row by row: the paper's
_LEAST = 1e-5  # of a group's range: the published code's


def encode(basis: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Codes (two in a byte where they have 4 bits), and a scale and a zero for each group.

    Args:
        basis: Of any shape.
        bits: 4 or 8.
    """
    flat = basis.reshape(-1)
    spare = -len(flat) % GROUP
    groups = torch.cat([flat, flat[-1:].expand(spare)]).view(-1, GROUP)  # the last number again moves no limit
    least, largest = groups.amin(1, keepdim=True).clamp_max(0), groups.amax(1, keepdim=True).clamp_min(0)
    most = 2**bits - 1
    scales = (largest - least).clamp_min(_LEAST) / most
    zeros = -torch.round(least / scales)
    codes = (torch.round(groups / scales) + zeros).clamp_(0, most).to(torch.uint8).view(-1)[: len(flat)]
    if bits == 4:
        pairs = torch.cat([codes, codes.new_zeros(len(codes) % 2)]).view(-1, 2)
        codes = pairs[:, 0] << 4 | pairs[:, 1]
    return {"codes": codes, "scales": scales.view(-1), "zeros": zeros.view(-1).to(torch.uint8)}


def decode(kept: Mapping[str, torch.Tensor], shape: tuple[int, int], bits: int) -> torch.Tensor:
    """The numbers of :func:`encode`, in the type of its scales."""
    codes, count = kept["codes"], shape[0] * shape[1]
    if bits == 4:
        codes = torch.stack([codes >> 4, codes & 15], 1).view(-1)[:count]
    scales, zeros = (kept[key].repeat_interleave(GROUP)[:count] for key in ("scales", "zeros"))
    return ((codes.to(scales.dtype) - zeros) * scales).view(shape)


def kept_bytes(numbers: int, bits: int) -> int:
    """Bytes of so many numbers of 32 bits in few bits.

    Example:
        >>> kept_bytes(2048 * 512, 4), 4 * 2048 * 512
        (544768, 4194304)
    """
    return -(-numbers * bits // 8) + 5 * -(-numbers // GROUP)
