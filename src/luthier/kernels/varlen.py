# SPDX-License-Identifier: Apache-2.0
"""Variable-length attention for CUDA: all segments in one call, ancestors' keys gathered in front of their own.

Masks are bottom-right: the last query of a segment sees its last key, so a child sees all of its ancestors.
The index arithmetic is plain Python on the forest's few numbers, done once a batch and not once a layer.

Shapes: H query heads, K key heads, T tokens, D head size, G gathered keys.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.kernels.forest import Forest


def varlen_available(query: torch.Tensor, value: torch.Tensor | None = None) -> bool:
    """Whether torch's variable-length kernel runs: 16 bits, a GPU since Ampere, fitting heads, a torch that has it.

    Args:
        query: [H, T, D].
        value: [K, T, D]; its heads may be of another size than the query's (multi-head latent attention).
    """
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    if torch.cuda.get_device_capability(query.device) < (8, 0):
        return False
    return fits(query.shape[-1], query.shape[-1] if value is None else value.shape[-1]) and _kernel() is not None


def fits(head_size: int, value_size: int) -> bool:
    """Whether flash attention has a kernel for these heads."""
    return head_size == value_size and head_size % 8 == 0 and head_size <= 256


@lru_cache(maxsize=1)
def _kernel() -> Callable[..., Any] | None:
    """torch's kernel where it has windows, grouped queries and a scale (torch 2.11 lacks some), else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    has = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size", "enable_gqa"} <= set(has) else None


def key_layout(starts: tuple[int, ...], parents: tuple[int, ...]) -> tuple[list[int] | None, list[int]]:
    """Where each segment's visible keys lie.

    Args:
        starts: As in :class:`~luthier.kernels.forest.Forest`.
        parents: Likewise.

    Returns:
        The gathered key positions (None where the keys stay as they are: every segment is a root), and the
        cumulative number of visible keys, N + 1 numbers.
    """
    if all(parent < 0 for parent in parents):
        return None, list(starts)
    gathered: list[int] = []
    ends = [0]
    for segment in range(len(parents)):
        chain, above = [segment], parents[segment]
        while above >= 0:
            chain.append(above)
            above = parents[above]
        for one in reversed(chain):
            gathered.extend(range(starts[one], starts[one + 1]))
        ends.append(len(gathered))
    return gathered, ends


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest,
    *,
    scaling: float,
    sliding_window: int | None = None,
    causal: bool = True,
    kernel: Callable[..., torch.Tensor] | None = None,
) -> torch.Tensor:
    """One variable-length call over all segments.

    Args:
        query: [H, T, D].
        key: [K, T, D].
        value: [K, T, D].
        forest: The batch.
        scaling: Factor of the scores.
        sliding_window: A token sees at most this many positions, itself included.
        causal: False: it sees its whole segment, and of a window both sides.
        kernel: What computes it, with the signature of torch.nn.attention.varlen.varlen_attn; that one by default.

    Returns:
        [H, T, D].
    """
    kernel = kernel or _kernel()
    if kernel is None:
        raise RuntimeError("this torch has no variable-length attention with windows, grouped queries and a scale")
    gathered, query_ends, key_ends, longest, longest_key = _on_device(forest.starts, forest.parents, query.device)
    before = -1 if sliding_window is None else sliding_window - 1
    flat_query, flat_key, flat_value = (x.transpose(0, 1) for x in (query, key, value))
    if gathered is not None:
        flat_key, flat_value = flat_key.index_select(0, gathered), flat_value.index_select(0, gathered)
    out: torch.Tensor = kernel(
        flat_query,
        flat_key,
        flat_value,
        query_ends,
        key_ends,
        longest,
        longest_key,
        scale=scaling,
        window_size=(before, 0 if causal else before),
        enable_gqa=query.shape[0] != key.shape[0],
    )
    return out.transpose(0, 1)


@lru_cache(maxsize=8)
def _on_device(
    starts: tuple[int, ...], parents: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, int, int]:
    """The layout as tensors, made once a batch and not once a layer (Unsloth measured 14 % for that)."""
    gathered, key_ends = key_layout(starts, parents)
    return (
        None if gathered is None else torch.tensor(gathered, device=device),
        torch.tensor(starts, dtype=torch.int32, device=device),
        torch.tensor(key_ends, dtype=torch.int32, device=device),
        max(b - a for a, b in pairwise(starts)),
        max(b - a for a, b in pairwise(key_ends)),
    )
