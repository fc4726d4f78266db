# SPDX-License-Identifier: Apache-2.0
"""silu(gate) * up, keeping gate and up for the backward pass and nothing else.

Shapes: T tokens, F feed-forward width.

Reference:
    Shazeer, GLU Variants Improve Transformer, arXiv 2002.05202, equation 6.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from luthier.kernels import native


def plain_swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up by autograd; what :func:`swiglu` must equal."""
    return F.silu(gate) * up


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The same as :func:`plain_swiglu`.

    Args:
        gate: [..., F].
        up: [..., F].

    Returns:
        [..., F].
    """
    if torch.compiler.is_compiling():  # which fuses the plain form itself; torch 2.11 gets a Function's gradient wrong
        return plain_swiglu(gate, up)
    result: torch.Tensor = _SwiGlu.apply(gate, up)
    return result


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.native = gate.shape == up.shape and native.usable(gate, up)
        if not ctx.native:
            ctx.save_for_backward(gate, up)
            return F.silu(gate).mul_(up)
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        _run("swiglu_forward", gate, up, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        if not ctx.native:
            grad_up = F.silu(gate).mul_(grad)
            return torch.ops.aten.silu_backward(grad * up, gate), grad_up
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        _run("swiglu_backward", grad.contiguous(), gate, up, grad_gate, grad_up)
        return grad_gate, grad_up


def _run(name: str, *tensors: torch.Tensor) -> None:
    pointers = [tensor.data_ptr() for tensor in tensors]
    native.share(native.function(name, tensors[0].dtype), tensors[0].numel(), 1, *pointers)
