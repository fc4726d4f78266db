# SPDX-License-Identifier: Apache-2.0
"""Forest attention: each token sees its own segment (its past, in causal models) and its ancestors, nothing else.

`models.planted` registers it with transformers.

    plain     one masked softmax over the whole forest, in any floating type: what the others must equal
    CPU       C++ loops where they are built (`native_attention`), else blocks of queries in bfloat16 (`cpu_attention`)
              or one scaled-dot-product call a segment; no [T, T] mask exists
    CUDA      one variable-length call (`kernels.varlen`), else one padded call of roots, else one call a segment

Shapes: H query heads, K key heads (K divides H), T tokens, D head size, L own tokens, M visible tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from luthier.kernels import native
from luthier.kernels.cpu_attention import cpu_attention
from luthier.kernels.native_attention import native_attention
from luthier.kernels.varlen import varlen_attention, varlen_available

if TYPE_CHECKING:
    from luthier.kernels.forest import Forest


def visible(forest: Forest, sliding_window: int | None = None, causal: bool = True) -> torch.Tensor:
    """Which token sees which: bool [T, T]. For tests, the plain form and messages only.

    Args:
        forest: The batch.
        sliding_window: A token sees at most this many positions, itself included.
        causal: False: it sees its whole segment, and of a window both sides.
    """
    mask = torch.zeros(forest.num_tokens, forest.num_tokens, dtype=torch.bool)
    for segment, (start, end) in enumerate(zip(forest.starts[:-1], forest.starts[1:], strict=True)):
        own = torch.ones(end - start, end - start, dtype=torch.bool)
        mask[start:end, start:end] = own.tril() if causal else own
        for above in forest.ancestors(segment):
            mask[start:end, forest.starts[above] : forest.starts[above + 1]] = True
    if sliding_window is not None:
        position = forest.position_ids.cpu()
        distance = position[:, None] - position[None, :]
        mask &= (distance if causal else distance.abs()) < sliding_window
    return mask


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Softmax attention as the papers write it.

    Args:
        query: [H, L, D].
        key: [K, M, D]; query heads share key heads in groups of H / K (grouped-query attention, arXiv 2305.13245).
        value: [K, M, D].
        mask: bool [L, M].
        scaling: Factor of the scores.
        softcap: Scores become softcap * tanh(score / softcap) (Gemma 2, arXiv 2408.00118, section 2).
        sinks: [H] scores of a virtual key without value (gpt-oss).
        dropout: Share of the weights that is dropped.

    Returns:
        [H, L, D].
    """
    groups = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
    scores = (query @ key.transpose(1, 2)) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores).reshape(-1, 1, 1).expand(-1, scores.shape[1], 1)], -1)
    wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
    weights = torch.softmax(scores, -1, dtype=wide).to(query.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    return F.dropout(weights, dropout) @ value if dropout else weights @ value


def forest_attention(  # noqa: PLR0913 - the options of plain_attention
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest,
    *,
    scaling: float,
    sliding_window: int | None = None,
    causal: bool = True,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention over a forest, one call a segment (or one variable-length call on CUDA).

    Args:
        query: [H, T, D].
        key: [K, T, D].
        value: [K, T, D].
        forest: Which token belongs to which segment.
        scaling: Factor of the scores.
        sliding_window: A token sees at most this many positions, itself included.
        causal: False: it sees its whole segment, and of a window both sides (encoders).
        softcap: See :func:`plain_attention`.
        sinks: Likewise.
        dropout: Likewise.

    Returns:
        [H, T, D], equal to :func:`plain_attention` under :func:`visible`.
    """
    special = softcap is not None or sinks is not None
    if varlen_available(query, value) and not special and not dropout:
        words: Any = {"sliding_window": sliding_window, "causal": causal}
        return varlen_attention(query, key, value, forest, scaling=scaling, **words)
    if not special and native.usable(query, key, value):
        return native_attention(query, key, value, forest, scaling, sliding_window, causal=causal, dropout=dropout)
    if causal and query.device.type == "cpu" and query.dtype == torch.bfloat16 and not special and not dropout:
        # torch's own bfloat16 kernel is 1.1 to 1.9 times slower there, most of all on short segments.
        return cpu_attention(query, key, value, forest, scaling=scaling, window=sliding_window)
    if query.is_cuda and forest.is_flat and not special and sliding_window is None:
        return padded_attention(query, key, value, forest, scaling=scaling, causal=causal, dropout=dropout)
    lengths = forest.lengths()
    queries, keys, values = (x.split(lengths, 1) for x in (query, key, value))
    outputs = []
    for segment, length in enumerate(lengths):
        if not length:
            continue  # an empty answer or prompt: nothing to compute, and nothing for others to see
        chain = [*forest.ancestors(segment), segment]
        own_key, own_value = keys[segment], values[segment]
        if len(chain) > 1:
            own_key = torch.cat([keys[i] for i in chain], 1)
            own_value = torch.cat([values[i] for i in chain], 1)
        total = own_key.shape[1]
        windowed = sliding_window is not None and total > sliding_window
        mask = None
        if (causal and len(chain) > 1) or windowed or special:
            mask = _bottom_right(length, total, sliding_window, causal, query.device)
        if special:
            assert mask is not None
            one = plain_attention(
                queries[segment],
                own_key,
                own_value,
                mask,
                scaling=scaling,
                softcap=softcap,
                sinks=sinks,
                dropout=dropout,
            )
        else:
            one = _sdpa(queries[segment], own_key, own_value, mask, scaling, dropout, causal)
        outputs.append(one)
    return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]


def padded_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest,
    *,
    scaling: float,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """All roots as rows of one padded call: for a GPU where the variable-length one cannot run (dropout, float32).

    BERT drops 10 % of its attention weights by default; one call a text would be 40 launches a layer for short texts.

    Args:
        query: [H, T, D].
        key: [K, T, D].
        value: [K, T, D].
        forest: Roots only.
        scaling: Factor of the scores.
        causal: Whether a token sees its own past only.
        dropout: Share of the weights that is dropped.
    """
    device, lengths = query.device, torch.tensor(forest.lengths(), device=query.device)
    column = torch.arange(int(max(forest.lengths())), device=device)
    real_NL = column < lengths[:, None]
    index_NL = torch.tensor(forest.starts[:-1], device=device)[:, None] + column.minimum(
        lengths[:, None] - 1
    ).clamp_min(0)
    index = index_NL.clamp_max(forest.num_tokens - 1).flatten()
    queries, keys, values = (
        x.index_select(1, index).unflatten(1, index_NL.shape).transpose(0, 1) for x in (query, key, value)
    )
    mask = real_NL[:, None, None] | ~real_NL[:, None, :, None]  # rows of padding see anything: no NaN in gradients
    mask = mask & (column[:, None] >= column) if causal else mask
    out = F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[0] != key.shape[0],
    )
    return out.transpose(0, 1)[:, real_NL]


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    dropout: float,
    causal: bool,
) -> torch.Tensor:
    return F.scaled_dot_product_attention(
        query[None],
        key[None],
        value[None],
        attn_mask=mask,
        is_causal=causal and mask is None,
        scale=scaling,
        dropout_p=dropout,
        enable_gqa=query.shape[0] != key.shape[0],
    )[0]


def _bottom_right(length: int, total: int, window: int | None, causal: bool, device: torch.device) -> torch.Tensor:
    """Mask bool [L, M] whose last query is at the last key."""
    query = torch.arange(total - length, total, device=device)[:, None]
    key = torch.arange(total, device=device)[None]
    distance = query - key
    mask = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return mask if window is None else mask & (distance.abs() < window)
