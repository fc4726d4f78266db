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
    result: torch.Tensor = _SwiGlu.apply(gate, up)
    return result


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up
