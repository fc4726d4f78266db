# SPDX-License-Identifier: Apache-2.0
"""The low-rank half of linears on one input by the C++ loops of `native/lowrank.cpp`: small ranks in bfloat16 on CPUs.

A product with a rank of 16 is too thin for oneDNN: it copies its sides before it multiplies, and makes 0.5 to 0.7 MB of
machine code for each number of tokens that it meets, which takes 0.4 to 1.2 ms. Here A and B are read as they are kept,
in float32, and rounded once; sums are float32.

Shapes: T tokens, K inputs, N outputs, r rank, R the sum of the ranks.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from luthier.kernels import native

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST = 32  # rank of a part; above it oneDNN's products are as fast
MOST_PARTS = 4  # as in native/lowrank.cpp
_ROWS = 96  # likewise
_SHARES = 16  # of the backward pass at most; they follow from the tokens alone, so no result depends on threads


class _Part(ctypes.Structure):
    """`struct Part` of native/lowrank.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in "grad y b grad_b".split()),
        *((name, ctypes.c_int64) for name in "outputs rank offset".split()),
        ("scaling", ctypes.c_double),
    )


class _Problem(ctypes.Structure):
    """`struct LowRank` of native/lowrank.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in "x grad_x s a grad_a parts".split()),
        *((name, ctypes.c_int64) for name in "count tokens inputs rank shares".split()),
    )


def fits(x: torch.Tensor, lora_a: Sequence[torch.Tensor], lora_b: Sequence[torch.Tensor]) -> bool:
    """Whether the C++ form can take parts of x [T, K]."""
    return (
        x.dtype == torch.bfloat16
        and len(lora_a) <= MOST_PARTS
        and len(x) > 0
        and all(len(a) <= MOST for a in lora_a)
        and all(size % 16 == 0 for size in (x.shape[1], *(len(b) for b in lora_b)))
        and lora_a[0].dtype == torch.float32
        and native.usable(*lora_a, *lora_b)
        and native.usable(x)
        and native.multiplies_pairs()
    )


def add(
    x: torch.Tensor,
    out: Sequence[torch.Tensor],
    lora_a: torch.Tensor,
    lora_b: Sequence[torch.Tensor],
    scalings: Sequence[float],
) -> torch.Tensor:
    """Add gamma (x A^T) B^T to each y in place and give s = x A^T, which the gradients need.

    Args:
        x: [T, K], dense.
        out: y of each part, [T, N], dense.
        lora_a: All A below each other, [R, K].
        lora_b: Each B, [N, r].
        scalings: Each gamma.

    Returns:
        [T, R].
    """
    s = x.new_empty(len(x), len(lora_a))
    b = [matrix.detach().contiguous() for matrix in lora_b]
    parts = [{"y": y, "b": matrix} for y, matrix in zip(out, b, strict=True)]
    _run("lowrank_forward", -(-len(x) // _ROWS), scalings, parts, x=x, s=s, a=lora_a.detach().contiguous())
    return s


def gradients(
    x: torch.Tensor,
    s: torch.Tensor,
    grads: Sequence[torch.Tensor],
    grad_x: torch.Tensor | None,
    lora_a: torch.Tensor,
    lora_b: Sequence[torch.Tensor],
    scalings: Sequence[float],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Add the low-rank halves' share to grad_x in place; give dA [R, K] and each dB [N, r], in float32.

    Args:
        x: As in :func:`add`.
        s: What that gave.
        grads: dY of each part, [T, N].
        grad_x: What to add to, [T, K], or None where nobody wants it.
        lora_a: As in :func:`add`.
        lora_b: Likewise.
        scalings: Likewise.
    """
    shares = min(_SHARES, -(-len(x) // _ROWS))
    dense = [grad.contiguous() for grad in grads]
    b = [matrix.detach().contiguous() for matrix in lora_b]
    grad_a = lora_a.new_zeros(shares, *lora_a.shape)
    grad_b = [matrix.new_zeros(shares, *matrix.T.shape) for matrix in b]
    parts = [{"grad": g, "b": m, "grad_b": d} for g, m, d in zip(dense, b, grad_b, strict=True)]
    more = {} if grad_x is None else {"grad_x": grad_x}
    a = lora_a.detach().contiguous()
    _run("lowrank_backward", shares, scalings, parts, x=x, s=s, a=a, grad_a=grad_a, **more)
    return grad_a.sum(0), [matrix.sum(0).T for matrix in grad_b]


def _run(
    name: str,
    count: int,
    scalings: Sequence[float],
    parts: Sequence[dict[str, torch.Tensor]],
    **tensors: torch.Tensor,
) -> None:
    made, offset = [], 0
    for part, scaling in zip(parts, scalings, strict=True):
        outputs, rank = part["b"].shape
        pointers = {key: tensor.data_ptr() for key, tensor in part.items()}
        made.append(_Part(**pointers, outputs=outputs, rank=rank, offset=offset, scaling=scaling))
        offset += rank
    x, array = tensors["x"], (_Part * len(made))(*made)
    problem = _Problem(
        **{key: tensor.data_ptr() for key, tensor in tensors.items()},
        parts=ctypes.addressof(array),
        count=len(made),
        tokens=len(x),
        inputs=x.shape[1],
        rank=offset,
        shares=count,
    )
    each = len(x) * (x.shape[1] + sum(part.outputs for part in made)) * 4 // count
    native.share(native.function(name, x.dtype), count, each, ctypes.byref(problem))
