# SPDX-License-Identifier: Apache-2.0
"""Attention over slots by the C++ loops of `native/slots.cpp`: keeps a pass's keys and values, no mask, no grouping.

Each token walks over just what it sees. PyTorch's own attention of 100 single bfloat16 tokens on 45 positions, 4 heads
of 64, takes 1.9 ms on a Zen 5 core, most of a pass of the built-in model.

Shapes: H query heads, K key heads, T tokens, S slots, C positions of a slot, D head size, E value size.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from luthier.kernels import native

if TYPE_CHECKING:
    from luthier.kernels.slots import Layout

# Prompts that reach further gain from blocks of queries, which these loops have not: PyTorch's attention is for them.
LONGEST_PROMPT = 256


def fits(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: Layout,
) -> bool:
    """Whether the loops can and should take this pass."""
    return (
        layout.longest <= LONGEST_PROMPT
        and native.usable(query, key, value, keys, values)
        and not torch.is_grad_enabled()
    )


class _Problem(ctypes.Structure):
    """`struct Kept` of native/slots.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "keys", "values", "out")),
        *((name, ctypes.c_void_p) for name in ("slots", "positions")),
        *((f"{name}_{step}", ctypes.c_int64) for name in ("query", "key", "value") for step in ("head", "token")),
        *((name, ctypes.c_int64) for name in ("tokens", "heads", "kv_heads", "width", "value_width")),
        *((name, ctypes.c_int64) for name in ("capacity", "window")),
        ("scaling", ctypes.c_double),
    )


def native_slots(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: Layout,
    window: int | None,
    scaling: float,
) -> torch.Tensor:
    """Keep the keys and values of a pass, and attend.

    Args:
        query: [H, T, D].
        key: [K, T, D].
        value: [K, T, E].
        keys: Of the slots, [S, K, C, D]; changed in place.
        values: [S, K, C, E]; likewise.
        layout: Which token is whose.
        window: A token sees at most this many positions, itself included.
        scaling: Factor of the scores.

    Returns:
        [T, H, E].
    """
    given = {
        name: one if one.stride(-1) == 1 else one.contiguous()
        for name, one in (("query", query), ("key", key), ("value", value))
    }
    heads, tokens, width = query.shape
    out = query.new_empty(tokens, heads, value.shape[-1])
    strides = {
        f"{name}_{step}": one.stride(i) for name, one in given.items() for i, step in enumerate(("head", "token"))
    }
    problem = _Problem(
        **{name: one.data_ptr() for name, one in given.items()},
        **strides,
        keys=keys.data_ptr(),
        values=values.data_ptr(),
        out=out.data_ptr(),
        slots=layout.slots.data_ptr(),
        positions=layout.position_ids.data_ptr(),
        tokens=tokens,
        heads=heads,
        kv_heads=key.shape[0],
        width=width,
        value_width=value.shape[-1],
        capacity=keys.shape[2],
        window=window or 0,
        scaling=scaling,
    )
    work = layout.seen * width * heads // key.shape[0]
    native.share(native.function("slots_attention", query.dtype), key.shape[0], work, ctypes.byref(problem))
    return out
