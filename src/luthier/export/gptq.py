# SPDX-License-Identifier: Apache-2.0
"""GPTQ: round a matrix to few bits column by column, and let the columns that follow make up for each error.

    H = X^T X / n + damp                         what rounding a column costs, from the layer's inputs
    U = cholesky(H^-1), upper                    row i of U: how the columns behind i best answer an error in i
    W[:, j] -= (w_i - q_i) / U_ii  U_ij          for all j > i; columns of one block at once, the rest after it

Shapes: N outputs, K inputs, G groups of `group_size` columns, n tokens.

References:
    Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, arXiv 2210.17323,
    algorithm 1; `desc_act` (columns in falling order of H's diagonal) is that of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from luthier.core.errors import RunFailed

BLOCK = 128
_TRIES = 4  # each dampens ten times as much


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How a matrix is rounded.

    Attributes:
        bits: b, of a code.
        group_size: Columns that share a scale.
        desc_act: Take columns in falling order of how much they matter; a group is then any columns that came in a row.
        static_groups: With `desc_act`: groups stay neighbours, with scales from the matrix as it was.
        sym: Codes lie evenly around zero, so that a scale says all; else each group has a zero of its own.
        damp_percent: What is added to H's diagonal, as a share of its mean.
    """

    bits: int = 4
    group_size: int = 128
    desc_act: bool = False
    static_groups: bool = False
    sym: bool = True
    damp_percent: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A matrix in few bits: a weight is (code - zero) * scale.

    Attributes:
        codes: uint8 [N, K], in the matrix' own order of columns.
        scales: float32 [N, G], each a float16 number.
        zeros: int32 [N, G], from 1 to 2^b - 1: the files store one less, in b bits.
        groups: The group of each column, int64 [K].
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    groups: torch.Tensor

    def dense(self) -> torch.Tensor:
        """The numbers, float32 [N, K]."""
        return (self.codes.float() - self.zeros[:, self.groups].float()) * self.scales[:, self.groups]


def gptq(weight: torch.Tensor, hessian: torch.Tensor, how: Rounding, block: int = BLOCK) -> Codes:
    """Round a matrix so that what it gives for its inputs changes least.

    Args:
        weight: [N, K].
        hessian: X^T X / n of its inputs, [K, K].
        how: Bits and groups; `group_size` divides K.
        block: Columns that are rounded before the rest is corrected; it changes speed and nothing else.

    Raises:
        RunFailed: H stays singular however much is added.
    """
    count = weight.shape[1]
    w, h = weight.detach().to(hessian.device, hessian.dtype, copy=True), hessian.clone()
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1.0
    w[:, dead] = 0.0
    order = h.diagonal().argsort(descending=True, stable=True) if how.desc_act else torch.arange(count, device=h.device)
    fixed = [fit(part, how) for part in w.split(how.group_size, 1)] if how.static_groups else []
    w, factors = w[:, order], _factors(h[order][:, order], how.damp_percent)
    codes = torch.empty(w.shape, dtype=torch.uint8, device=w.device)
    made = []
    for start in range(0, count, block):
        stop = min(start + block, count)
        errors = torch.zeros_like(w[:, start:stop])
        for i in range(start, stop):
            if fixed:
                scale, zero = fixed[int(order[i]) // how.group_size]
            elif i % how.group_size == 0:
                # Columns of the group that lie behind this block have not heard of its errors: tell them first.
                ahead = w[:, stop : i + how.group_size]
                ahead = ahead - errors @ factors[start:stop, stop : i + how.group_size]
                scale, zero = fit(torch.cat([w[:, i : min(stop, i + how.group_size)], ahead], 1), how)
                made.append((scale, zero))
            codes[:, i] = code = (w[:, i] / scale + zero).round().clamp(0, 2**how.bits - 1)
            errors[:, i - start] = (w[:, i] - (code - zero) * scale) / factors[i, i]
            w[:, i + 1 : stop] -= errors[:, i - start, None] * factors[i, i + 1 : stop]
        w[:, stop:] -= errors @ factors[start:stop, stop:]
    back = order.argsort()
    groups = (torch.arange(count, device=w.device) if fixed else back) // how.group_size
    scales, zeros = (torch.stack(part, 1) for part in zip(*(fixed or made), strict=True))
    return Codes(codes=codes[:, back], scales=scales.float(), zeros=zeros.int(), groups=groups)


def fit(columns: torch.Tensor, how: Rounding) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero of each row of a group, [N] each: its numbers and zero itself lie between the outermost codes."""
    most = 2**how.bits - 1
    low, high = columns.amin(1).clamp(max=0.0), columns.amax(1).clamp(min=0.0)
    if how.sym:
        high = torch.maximum(-low, high)
        low = -high
    scale = ((high - low) / most).half().to(columns.dtype)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a group of zeros, or too small for float16
    zero = torch.full_like(scale, (most + 1) // 2) if how.sym else (-low / scale).round().clamp(1, most)
    return scale, zero


def nearest(weight: torch.Tensor, how: Rounding) -> Codes:
    """Round each number to its nearest code; what GPTQ has to beat."""
    groups = torch.arange(weight.shape[1], device=weight.device) // how.group_size
    made = [fit(part, how) for part in weight.detach().split(how.group_size, 1)]
    scales, zeros = (torch.stack(part, 1) for part in zip(*made, strict=True))
    codes = (weight.detach() / scales[:, groups] + zeros[:, groups]).round().clamp(0, 2**how.bits - 1)
    return Codes(codes=codes.to(torch.uint8), scales=scales.float(), zeros=zeros.int(), groups=groups)


def cost(weight: torch.Tensor, codes: Codes, hessian: torch.Tensor) -> float:
    """Mean square of the change in the layer's outputs on the tokens of H, summed over outputs."""
    change = (weight.detach().to(hessian) - codes.dense().to(hessian)).to(hessian.dtype)
    return float((change @ hessian * change).sum())


def _factors(hessian: torch.Tensor, damp_percent: float) -> torch.Tensor:
    """The upper Cholesky factor of the inverse."""
    mean = hessian.diagonal().mean()
    for attempt in range(_TRIES):
        damped = hessian.clone()
        damped.diagonal().add_(damp_percent * 10**attempt * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed and bool(lower.isfinite().all()):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed and bool(upper.isfinite().all()):
                return upper
    received = (
        f"the inputs of a layer have no usable covariance, even with {damp_percent * 10 ** (_TRIES - 1):g} of its mean"
    )
    raise RunFailed("--to gptq", received, "more varied calibration rows", "raise rows, or damp_percent")
