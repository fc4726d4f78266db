# SPDX-License-Identifier: Apache-2.0
"""The low-rank linear: y = x W^T + b + gamma (x A^T) B^T with a frozen W.

W never gets a gradient; saved for the backward pass are x and s = x A^T (T x r numbers), nothing else; where no A
trains (LoRA-FA, VeRA), s alone.
The low-rank product is added in place into the base product's output, so no second T x N tensor is made:
1.12 times the cost of the base linear on a CPU in bfloat16, where PEFT's forward costs 1.58 times.
(One GEMM on [x | s] [W | gamma B]^T measured 1.07 but needs a copy of x and of W in a wider buffer; see
ARCHITECTURE.md.) Linears on the same x (query, key and value; gate and up) share one s and one node: x is read once
for all of them, and their gradients of x are added up where the first was made.

Shapes: T tokens, K inputs, N outputs, r rank, R the sum of the ranks that share x.

Reference:
    Hu et al., LoRA, arXiv 2106.09685, section 4.1; Kalajdzievski, rank-stabilised LoRA, arXiv 2312.03732, theorem 3.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from luthier.kernels import native_lowrank

if TYPE_CHECKING:
    from collections.abc import Sequence


class LowRank(NamedTuple):
    """A frozen linear and its update.

    Attributes:
        weight: Frozen, [N, K]; may be a transposed view (transformers' Conv1D), or in few bits (`kernels.quantized`).
        bias: [N] or None; may train.
        lora_a: [r, K].
        lora_b: [N, r].
        scaling: gamma: alpha / r, or alpha / sqrt(r) (rank-stabilised).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    lora_a: torch.Tensor
    lora_b: torch.Tensor
    scaling: float


def multiply_adds(weight: torch.Tensor, reached: bool) -> int:
    """What x W^T costs for each row of x: forward, x's gradient where one is asked for, W's where W trains."""
    return weight.numel() * (1 + reached + weight.requires_grad)


def plain_lowrank_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lora_a: torch.Tensor,
    lora_b: torch.Tensor,
    scaling: float,
    low: torch.Tensor | None = None,
) -> torch.Tensor:
    """The formula by autograd; what :func:`lowrank_linear` must equal."""
    low = x if low is None else low
    return F.linear(x, weight, bias) + scaling * F.linear(F.linear(low, lora_a), lora_b)


def lowrank_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lora_a: torch.Tensor,
    lora_b: torch.Tensor,
    scaling: float,
    low: torch.Tensor | None = None,
) -> torch.Tensor:
    """Base linear plus scaled low-rank update.

    Args:
        x: [..., K].
        weight: See :class:`LowRank`.
        bias: Likewise.
        lora_a: Likewise.
        lora_b: Likewise.
        scaling: Likewise.
        low: Input of the low-rank branch where it differs from x (dropout), [..., K].

    Returns:
        [..., N] in x's dtype.
    """
    part = LowRank(weight, bias, lora_a, lora_b, scaling)
    result: torch.Tensor = _LowRankLinears.apply(x, low, (scaling,), *part[:4])[0]
    return result


def lowrank_linears(x: torch.Tensor, parts: Sequence[LowRank]) -> tuple[torch.Tensor, ...]:
    """Several linears of the same input: :func:`lowrank_linear` of each part, in one node.

    Args:
        x: [..., K].
        parts: With the same K.

    Returns:
        [..., N] of each part.
    """
    tensors = [tensor for part in parts for tensor in part[:4]]
    result: tuple[torch.Tensor, ...] = _LowRankLinears.apply(x, None, tuple(part.scaling for part in parts), *tensors)
    return result


class _LowRankLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        low: torch.Tensor | None,
        scalings: tuple[float, ...],
        *tensors: Any,  # of each part: weight, bias or None, A, B
    ) -> tuple[torch.Tensor, ...]:
        weights, biases, lora_a, lora_b = (tensors[i::4] for i in range(4))
        x_TK = x.reshape(-1, x.shape[-1])
        low_TK = x_TK if low is None else low.reshape(-1, x.shape[-1])
        # In x's own shape: autograd forbids models to change a view of what is made here in place (OLMo, Falcon do).
        out = [
            F.linear(x, weight, None if bias is None else bias.to(x.dtype))
            for weight, bias in zip(weights, biases, strict=True)
        ]
        flat = [y.view(-1, y.shape[-1]) for y in out]
        s_TR = add_updates(low_TK, flat, lora_a, lora_b, scalings)
        kept = low_TK if any(ctx.needs_input_grad[5::4]) else None  # A's gradient alone reads x again
        ctx.save_for_backward(kept, s_TR, *tensors)
        ctx.scalings, ctx.shape, ctx.same = scalings, x.shape, low is None
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        low_TK, s_TR, *tensors = ctx.saved_tensors
        weights, biases, lora_a, lora_b = (tensors[i::4] for i in range(4))
        wants_x, wants_low, _, *wants = ctx.needs_input_grad
        grad_TN = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        grad_x = None
        if wants_x:
            grad_x = grad_TN[0] @ weights[0]
            for g, weight in zip(grad_TN[1:], weights[1:], strict=True):
                grad_x.addmm_(g, weight)
        grad_low = grad_TN[0].new_zeros(len(s_TR), lora_a[0].shape[1]) if wants_low else None
        to = grad_x if ctx.same else grad_low
        grads_a, grads_b = update_gradients(low_TK, s_TR, grad_TN, to, lora_a, lora_b, ctx.scalings)
        found: list[torch.Tensor | None] = []
        for i, grad_a in enumerate(grads_a):
            _, wants_bias, wants_a, wants_b = wants[4 * i : 4 * i + 4]
            grad_b = grads_b[i]
            found += [
                None,
                grad_TN[i].sum(0).to(biases[i].dtype) if wants_bias else None,
                grad_a.to(lora_a[i].dtype) if wants_a and grad_a is not None else None,
                grad_b.to(lora_b[i].dtype) if wants_b and grad_b is not None else None,
            ]
        return _shaped(grad_x, ctx.shape), _shaped(grad_low, ctx.shape), None, *found


def add_updates(
    x: torch.Tensor,
    out: Sequence[torch.Tensor],
    lora_a: Sequence[torch.Tensor],
    lora_b: Sequence[torch.Tensor],
    scalings: Sequence[float],
) -> torch.Tensor:
    """Add gamma (x A^T) B^T to each y [T, N] in place; give s = x A^T, [T, R]. By the C++ loops where they fit."""
    if native_lowrank.fits(x, lora_a, lora_b):
        return native_lowrank.add(x.contiguous(), out, _stacked(lora_a), lora_b, scalings)
    s_TR = x @ _stacked(lora_a).to(x.dtype).T
    for y_TN, s_Tr, b, scaling in zip(out, _split(s_TR, lora_b), lora_b, scalings, strict=True):
        y_TN.addmm_(s_Tr, b.to(x.dtype).T, alpha=scaling)
    return s_TR


def update_gradients(
    x: torch.Tensor | None,
    s: torch.Tensor,
    grads: Sequence[torch.Tensor],
    grad_x: torch.Tensor | None,
    lora_a: Sequence[torch.Tensor],
    lora_b: Sequence[torch.Tensor],
    scalings: Sequence[float],
) -> tuple[Sequence[torch.Tensor | None], Sequence[torch.Tensor | None]]:
    """Add gamma dY B A of each part to grad_x [T, K] in place, where there is one; give each dA and each dB.

    A product that nobody asks for is not computed: no dA without x, no dB of a B without a gradient.

    Args:
        x: [T, K], as :func:`add_updates` had it, or None where no dA is asked for.
        s: What that gave.
        grads: dY of each part, [T, N].
        grad_x: What to add to, or None.
        lora_a: Each A.
        lora_b: Each B.
        scalings: Each gamma.
    """
    a_RK = _stacked(lora_a)
    if x is not None and native_lowrank.fits(x, lora_a, lora_b):
        grad_A, grads_b = native_lowrank.gradients(x.contiguous(), s, grads, grad_x, a_RK, lora_b, scalings)
        return _split(grad_A, lora_b, 0), grads_b
    parts = list(zip(grads, lora_b, _split(s, lora_b), scalings, strict=True))
    dB = [(grad.T @ s_Tr).mul_(scaling) if b.requires_grad else None for grad, b, s_Tr, scaling in parts]
    if x is None and grad_x is None:
        return [None] * len(parts), dB
    ds_TR = torch.cat([(grad @ b.to(grad.dtype)).mul_(scaling) for grad, b, _, scaling in parts], 1)
    if grad_x is not None:
        grad_x.addmm_(ds_TR, a_RK.to(grad_x.dtype))
    return [None] * len(parts) if x is None else _split(ds_TR.T @ x, lora_b, 0), dB


def _shaped(x: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    return None if x is None else x.view(shape)


def _stacked(lora_a: Sequence[torch.Tensor]) -> torch.Tensor:
    """All A below each other, [R, K]."""
    return lora_a[0] if len(lora_a) == 1 else torch.cat(tuple(lora_a))


def _split(x: torch.Tensor, lora_b: Sequence[Any], dim: int = 1) -> Sequence[torch.Tensor]:
    """Each part's share of a matrix whose columns (or rows) are all ranks."""
    return x.split([b.shape[1] for b in lora_b], dim)
