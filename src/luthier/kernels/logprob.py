# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of the scored tokens straight from hidden states: full logits never exist.

The scored rows are walked in chunks. The gradient of a token's log-probability by its logits is
onehot - softmax; since each row's gradient is only scaled by what comes from above, the forward pass already forms
dh = (onehot - softmax) W and the backward pass multiplies each row by one number. A frozen head costs two matrix
products, not three; a trained head computes its chunk of logits once more in the backward pass.

A head may be a sum of products, z = h W^T + s U^T + b: a LoRA head passes its low-rank part as the second term.

Shapes: S scored tokens, H hidden, R rank, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from luthier.kernels import native

if TYPE_CHECKING:
    from collections.abc import Sequence

# 256 rows x 8k words in float32 are 8 MB and stay in the cache; GEMMs lose speed below about 128 rows.
CHUNK_ELEMENTS = 256 * 8192
MIN_ROWS = 128


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What a model does to its logits besides the product.

    Attributes:
        scale: Logits are multiplied by it (Cohere's `logit_scale`, Granite's 1 / `logits_scaling`).
        softcap: Logits become softcap * tanh(logits / softcap) (Gemma 2).
    """

    scale: float = 1.0
    softcap: float | None = None


def plain_logprob(
    terms: Sequence[tuple[torch.Tensor, torch.Tensor]],
    bias: torch.Tensor | None,
    target: torch.Tensor,
    shape: HeadShape = HeadShape(),
) -> torch.Tensor:
    """The same by full logits; what :func:`linear_logprob` must equal."""
    logits, _ = _logits(terms, bias, shape, slice(None))
    return torch.log_softmax(logits, -1).gather(1, target[:, None])[:, 0]


def linear_logprob(
    terms: Sequence[tuple[torch.Tensor, torch.Tensor]],
    bias: torch.Tensor | None,
    target: torch.Tensor,
    shape: HeadShape = HeadShape(),
) -> torch.Tensor:
    """Log-probability of each target under softmax(sum of x W^T + b).

    Args:
        terms: Pairs (x [S, H], W [V, H]); the logits are the sum of their products.
        bias: [V] or None.
        target: Token ids, int64 [S].
        shape: Scaling and soft cap of the logits.

    Returns:
        float32 [S] (float64 for float64 inputs); empty for S = 0.

    Reference:
        Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models, arXiv 2411.09009, for the idea of never
        holding the logits; the gradient in the forward pass follows from the softmax's derivative.
    """
    flat = [tensor for pair in terms for tensor in pair]
    result: torch.Tensor = _LinearLogprob.apply(target, bias, shape, *flat)
    return result


def linear_logits(
    terms: Sequence[tuple[torch.Tensor, torch.Tensor]], bias: torch.Tensor | None, shape: HeadShape = HeadShape()
) -> torch.Tensor:
    """The logits themselves, [S, V] in float32 (or float64), for whoever draws from them; arguments as above."""
    return _logits(terms, bias, shape, slice(None))[0]


def _logits(
    terms: Sequence[tuple[torch.Tensor, torch.Tensor]], bias: torch.Tensor | None, shape: HeadShape, rows: slice
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits of some rows in float32 (or float64), and tanh' of the soft cap where there is one."""
    first, weight = terms[0]
    raw = first[rows] @ weight.to(first.dtype).T
    wide = raw.dtype if raw.dtype == torch.float64 else torch.float32
    logits = raw.to(wide)
    for x, w in terms[1:]:
        logits = logits + (x[rows] @ w.to(x.dtype).T).to(wide)
    if bias is not None:
        logits = logits + bias.to(wide)
    if shape.scale != 1.0:
        logits = logits * shape.scale
    if shape.softcap is None:
        return logits, None
    bent = torch.tanh(logits / shape.softcap)
    return bent * shape.softcap, 1 - bent * bent


def _chunks(rows: int, vocabulary: int) -> list[slice]:
    size = max(MIN_ROWS, CHUNK_ELEMENTS // vocabulary)
    return [slice(i, min(i + size, rows)) for i in range(0, rows, size)]


class _LinearLogprob(torch.autograd.Function):
    """Saves S x H numbers for a frozen head, and nothing of size V."""

    @staticmethod
    def forward(
        ctx: Any, target: torch.Tensor, bias: torch.Tensor | None, shape: HeadShape, *flat: torch.Tensor
    ) -> torch.Tensor:
        terms = list(zip(flat[::2], flat[1::2], strict=True))
        rows, vocabulary = len(target), flat[1].shape[0]
        wide = flat[0].dtype if flat[0].dtype == torch.float64 else torch.float32
        logps = torch.empty(rows, dtype=wide, device=target.device)
        wants = ctx.needs_input_grad
        units = [torch.empty_like(x) if wants[3 + 2 * i] else None for i, (x, _) in enumerate(terms)]
        wanted = any(unit is not None for unit in units)
        for chunk in _chunks(rows, vocabulary):
            logps[chunk], dz = _row_gradients(terms, bias, target[chunk], shape, chunk, wanted=wanted)
            if dz is not None:
                for (x, weight), unit in zip(terms, units, strict=True):
                    if unit is not None:
                        unit[chunk] = dz.to(x.dtype) @ weight.to(x.dtype)
        # A frozen head needs only the unit gradients in the backward pass; a trained one needs its inputs again.
        ctx.head_trains = wants[1] or any(wants[4::2])
        ctx.shape, ctx.count = shape, len(terms)
        kept = [target, bias, *flat] if ctx.head_trains else []
        ctx.save_for_backward(*units, *kept)
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = ctx.saved_tensors
        units, kept = saved[: ctx.count], saved[ctx.count :]
        grads: list[torch.Tensor | None] = [None] * (2 * ctx.count)
        for i, unit in enumerate(units):
            if unit is not None:
                grads[2 * i] = (unit * grad[:, None]).to(unit.dtype)
        grad_bias = None
        if ctx.head_trains:
            grad_bias = _head_gradients(ctx, grad, kept, grads)
        return (None, grad_bias, None, *grads)


def _row_gradients(
    terms: Sequence[tuple[torch.Tensor, torch.Tensor]],
    bias: torch.Tensor | None,
    target: torch.Tensor,
    shape: HeadShape,
    rows: slice,
    *,
    wanted: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log p(target) of some rows, [C], and where wanted its gradient by the raw logits, [C, V]."""
    x, weight = terms[0]
    if len(terms) == 1 and bias is None and shape == HeadShape() and native.usable(x, weight):
        raw, target = x[rows] @ weight.T, target.contiguous()
        logps = torch.empty(len(raw), dtype=torch.float32)
        pointers = raw.data_ptr(), target.data_ptr(), logps.data_ptr()
        call = native.function("log_softmax_gradient", raw.dtype)
        native.share(call, len(raw), raw.shape[1], *pointers, raw.shape[1])
        return logps, raw
    logits, slope = _logits(terms, bias, shape, rows)
    logps = _softmax_(logits, target)
    return logps, _unit_gradient(logits, target, slope, shape) if wanted else None


def _softmax_(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Turn logits [C, V] into probabilities in place, in four passes; return log p(target), [C]."""
    logits -= logits.amax(-1, keepdim=True)
    chosen = logits.gather(1, target[:, None])
    total = logits.exp_().sum(-1, keepdim=True)
    logits /= total
    return (chosen - total.log())[:, 0]


def _unit_gradient(
    probabilities: torch.Tensor, target: torch.Tensor, slope: torch.Tensor | None, shape: HeadShape
) -> torch.Tensor:
    """d log p(target) / d raw logits, [C, V]; overwrites `probabilities`."""
    dz = probabilities.neg_()
    dz.scatter_add_(1, target[:, None], torch.ones_like(dz[:, :1]))
    if slope is not None:
        dz *= slope
    return dz if shape.scale == 1.0 else dz.mul_(shape.scale)


def _head_gradients(
    ctx: Any, grad: torch.Tensor, kept: Sequence[torch.Tensor], grads: list[torch.Tensor | None]
) -> torch.Tensor | None:
    """Gradients of the head's own parameters; fills `grads`, returns the bias's."""
    target, bias, *flat = kept
    terms = list(zip(flat[::2], flat[1::2], strict=True))
    wants = ctx.needs_input_grad
    sums = [
        torch.zeros(w.shape, dtype=torch.promote_types(w.dtype, torch.float32), device=w.device)
        if wants[4 + 2 * i]
        else None
        for i, (_, w) in enumerate(terms)
    ]
    grad_bias = torch.zeros_like(bias, dtype=grad.dtype) if wants[1] else None
    for chunk in _chunks(len(target), flat[1].shape[0]):
        _, dz = _row_gradients(terms, bias, target[chunk], ctx.shape, chunk, wanted=True)
        assert dz is not None
        dz *= grad[chunk, None]
        if grad_bias is not None:
            grad_bias += dz.sum(0)
        for (x, _), total in zip(terms, sums, strict=True):
            if total is not None:
                total += dz.to(x.dtype).T @ x[chunk]
    for i, ((_, weight), total) in enumerate(zip(terms, sums, strict=True)):
        if total is not None:
            grads[2 * i + 1] = total.to(weight.dtype)
    return None if grad_bias is None or bias is None else grad_bias.to(bias.dtype)
