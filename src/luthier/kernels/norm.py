# SPDX-License-Identifier: Apache-2.0
"""RMSNorm that keeps x and one number a row for the backward pass, instead of three float32 copies of x.

Shapes: T tokens, H hidden.

Reference:
    Zhang and Sennrich, Root Mean Square Layer Normalization, arXiv 1910.07467, equation 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from luthier.kernels import native

# Rows whose weight gradients are added up together: partial sums do not depend on how threads share the rows.
_CHUNK = 256


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
    if torch.compiler.is_compiling():  # which fuses the plain form itself; torch 2.11 gets a Function's gradient wrong
        return plain_rms_norm(x, weight, eps)
    result: torch.Tensor = _RmsNorm.apply(x, weight, eps)
    return result


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        if weight.shape == x.shape[-1:] and native.usable(x, weight):
            return _native_forward(ctx, x.contiguous(), weight, eps)
        ctx.native = False
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).to(x.dtype).mul_(weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.native:
            return _native_backward(ctx, grad.contiguous())
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


def _native_forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    width = x.shape[-1]
    rows = x.numel() // width
    out, scale = torch.empty_like(x), torch.empty(rows, dtype=torch.float32)
    call = native.function("rms_norm_forward", x.dtype)
    pointers = [tensor.data_ptr() for tensor in (x, weight, out, scale)]
    native.share(call, rows, width, *pointers, width, eps)
    ctx.native = True
    ctx.save_for_backward(x, weight, scale)
    return out


def _native_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight, scale = ctx.saved_tensors
    width = x.shape[-1]
    rows = x.numel() // width
    grad_x = torch.empty_like(x)
    sums = torch.zeros(-(-rows // _CHUNK), width) if ctx.needs_input_grad[1] else None
    pointers = [tensor.data_ptr() for tensor in (grad, x, weight, scale, grad_x)]
    last = None if sums is None else sums.data_ptr()
    call = native.function("rms_norm_backward", x.dtype)

    def part(first: int, end: int) -> None:  # whole chunks: two threads never add to one sum
        call(*pointers, last, width, _CHUNK, first * _CHUNK, min(end * _CHUNK, rows))

    native.share(part, -(-rows // _CHUNK), _CHUNK * width)
    return grad_x, None if sums is None else sums.sum(0).to(weight.dtype), None
