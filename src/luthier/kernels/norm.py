# SPDX-License-Identifier: Apache-2.0
"""RMSNorm that keeps x and one number a row for the backward pass, instead of three float32 copies of x.

Shapes: T tokens, H hidden.

Reference:
    Zhang and Sennrich, Root Mean Square Layer Normalization, arXiv 1910.07467, equation 4.
"""

from __future__ import annotations

from typing import Any

import torch


def plain_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """weight * x / sqrt(mean(x^2) + eps), normalised in float32 (float64 for float64), as transformers' Llama does."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight.to(x.dtype) * normed.to(x.dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The same as :func:`plain_rms_norm`.

    Args:
        x: [..., H].
        weight: [H]; may train.
        eps: Added to the mean square.

    Returns:
        [..., H] in x's dtype.
    """
    result: torch.Tensor = _RmsNorm.apply(x, weight, eps)
    return result


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).to(x.dtype).mul_(weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * (x * scale)).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            above = (grad * weight.to(grad.dtype)).to(scale.dtype)
            dot = torch.linalg.vecdot(above, x.to(scale.dtype)).unsqueeze(-1)
            above.mul_(scale).addcmul_(x, dot * scale.pow(3), value=-1.0 / x.shape[-1])
            grad_x = above.to(x.dtype)
        return grad_x, grad_weight, None
