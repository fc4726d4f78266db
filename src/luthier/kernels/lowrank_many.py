# SPDX-License-Identifier: Apache-2.0
"""One frozen linear under many adapters: each has its own slice of the tokens.

    y = x W^T        y[slice k] += gamma_k (x_k A_k^T) B_k^T + b_k

The base product runs once over all tokens, the low-rank products slice by slice. The dense form (all A and B
concatenated, an ownership mask on s = x A^T) computes every adapter on every token, 8 times the low-rank work with
eight adapters, and multiplies what is masked by zero: 0 * NaN of one broken adapter would reach all others. Here no
number of one adapter ever meets another's.

Shapes: T tokens (of all adapters), K inputs, N outputs, r rank of one adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from luthier.kernels.lowrank import add_updates, update_gradients

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Part:
    """One adapter's part of a linear.

    Attributes:
        start: Its first token.
        stop: The end of its tokens.
        a: [r, K], or None where it has no low-rank update here.
        b: [N, r], or None with `a`.
        scaling: gamma: alpha / r, or alpha / sqrt(r) (rank-stabilised).
        noise: What the input of its low-rank branch is multiplied by (dropout), [stop - start, K], or None.
        bias: Its own bias [N], or None.
    """

    start: int
    stop: int
    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    scaling: float = 1.0
    noise: torch.Tensor | None = None
    bias: torch.Tensor | None = None


def plain_many_lowrank_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, parts: Sequence[Part]
) -> torch.Tensor:
    """The formula by autograd; what :func:`many_lowrank_linear` must equal."""
    found = F.linear(x, weight, bias).reshape(-1, weight.shape[0])
    for part in parts:
        own = torch.zeros_like(found)
        if part.a is not None and part.b is not None:
            low = x.reshape(-1, x.shape[-1])[part.start : part.stop]
            low = low if part.noise is None else low * part.noise
            own[part.start : part.stop] += part.scaling * (low @ part.a.T @ part.b.T)
        if part.bias is not None:
            own[part.start : part.stop] += part.bias
        found = found + own
    return found.view(*x.shape[:-1], weight.shape[0])


def many_lowrank_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, parts: Sequence[Part]
) -> torch.Tensor:
    """Base linear over all tokens plus each adapter's update on its own.

    Args:
        x: [..., K]; T rows in all.
        weight: Frozen, [N, K]; may be a transposed view (transformers' Conv1D).
        bias: [N] or None, for all tokens; frozen.
        parts: The adapters' slices; they do not overlap, and a token without one gets the base alone.

    Returns:
        [..., N] in x's dtype.

    Reference:
        Hu et al., arXiv 2106.09685, section 4.1; Chen et al., Punica, arXiv 2310.18547, for many adapters on one base.
    """
    parts = [part for part in parts if part.stop > part.start]
    flat = [tensor for part in parts for tensor in (part.a, part.b, part.bias)]
    result: torch.Tensor = _ManyLowRankLinear.apply(x, weight, bias, parts, *flat)
    return result


class _ManyLowRankLinear(torch.autograd.Function):
    """Saves s = x A^T of each adapter (T r / n numbers each), and x where an A trains; noise is the caller's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        parts: list[Part],
        *flat: torch.Tensor | None,
    ) -> torch.Tensor:
        x_TK = x.reshape(-1, x.shape[-1])
        y = F.linear(x, weight, None if bias is None else bias.to(x.dtype))  # no view, as in `lowrank`
        y_TN = y.view(-1, y.shape[-1])
        kept: list[torch.Tensor | None] = []
        for part in parts:
            own = y_TN[part.start : part.stop]
            if part.bias is not None:
                own += part.bias.to(x.dtype)
            s = None
            if part.a is not None and part.b is not None:
                s = add_updates(_low(x_TK, part), [own], [part.a], [part.b], [part.scaling])
            kept.append(s)
        ctx.save_for_backward(
            x_TK if any(ctx.needs_input_grad[4::3]) else None, weight, *flat, *kept, *(part.noise for part in parts)
        )
        # Tensors are kept through autograd alone, so that their memory goes with the graph; here numbers only.
        ctx.spans = [(part.start, part.stop, part.scaling) for part in parts]
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        x_TK, weight, *rest = ctx.saved_tensors
        count = len(ctx.spans)
        flat, kept, noises = rest[: 3 * count], rest[3 * count : 4 * count], rest[4 * count :]
        grad_TN = grad.reshape(-1, grad.shape[-1])
        wants_x, wants = ctx.needs_input_grad[0], ctx.needs_input_grad[4:]
        grad_x = grad_TN @ weight if wants_x else None
        grads: list[torch.Tensor | None] = [None] * (3 * count)
        for place, (start, stop, scaling) in enumerate(ctx.spans):
            a, b, bias = flat[3 * place : 3 * place + 3]
            own, s = grad_TN[start:stop], kept[place]
            if bias is not None and wants[3 * place + 2]:
                grads[3 * place + 2] = own.sum(0).to(bias.dtype)
            if a is None or b is None or s is None:
                continue
            part = Part(start=start, stop=stop, a=a, b=b, scaling=scaling, noise=noises[place])
            to = None if grad_x is None else grad_x[start:stop]
            if to is not None and part.noise is not None:
                to = torch.zeros_like(to)  # ds A goes through the dropout first
            low = None if x_TK is None else _low(x_TK, part)
            (grad_a,), (grad_b,) = update_gradients(low, s, [own], to, [a], [b], [scaling])
            if grad_x is not None and to is not None and part.noise is not None:
                grad_x[start:stop] += to.mul_(part.noise)
            if wants[3 * place] and grad_a is not None:
                grads[3 * place] = grad_a.to(a.dtype)
            if wants[3 * place + 1] and grad_b is not None:
                grads[3 * place + 1] = grad_b.to(b.dtype)
        return (None if grad_x is None else grad_x.view(ctx.shape), None, None, None, *grads)


def _low(x_TK: torch.Tensor, part: Part) -> torch.Tensor:
    """What enters an adapter's branch."""
    own = x_TK[part.start : part.stop]
    return own if part.noise is None else own * part.noise
