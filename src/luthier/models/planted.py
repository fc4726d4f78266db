# SPDX-License-Identifier: Apache-2.0
"""How a forest reaches a transformers model: in the place of its attention masks.

    with planted(forest):
        model(input_ids, position_ids=..., use_cache=False)

A model asks transformers for its masks once a forward and hands each layer the one that it should obey. Models that
run on the attention `luthier` receive :class:`Seen` instead of a tensor: the forest, and the window of that mask.
So the window is the one that transformers' own attention would obey, layers need not pass on words that they do not
know, it survives gradient checkpointing, and a layer that reads or changes its mask fails instead of being wrong.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from luthier.kernels.attention import forest_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from luthier.kernels.forest import Forest

NAME = "luthier"
RUNNABLE = "architectures whose attention goes through transformers' interface (docs/models.md lists those proven)"


@dataclass(frozen=True, eq=False)
class Seen:
    """What a layer is told in place of a mask.

    Attributes:
        forest: The batch.
        window: A token sees at most this many positions, itself included; None for all.
        prefix: Keys and values that stand before all tokens; the forest's first segment is theirs.
        causal: Whether it sees its own segment's past only, and not (encoders) the whole of it.
    """

    forest: Forest
    window: int | None
    prefix: Prefix | None = None
    causal: bool = True


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of virtual tokens (prefix tuning): [2 layers, K key heads, n tokens, D], key, value, key ..."""

    states: torch.Tensor

    @property
    def length(self) -> int:
        """n."""
        return self.states.shape[2]

    def before(
        self, module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[H, T, D] and [K, T, D] of a layer with the virtual tokens in front.

        A kernel knows tokens by one index for queries and keys, so virtual tokens get queries of zeros, whose outputs
        nobody reads: n (n + 1) / 2 products more a head, and every kernel runs as it is.
        """
        layer: Any = getattr(module, "layer_idx", None)
        own_key, own_value = self.states[2 * layer], self.states[2 * layer + 1]
        if own_key.shape[::2] != key.shape[::2] or own_value.shape[::2] != value.shape[::2]:
            kind = type(module).__name__
            raise ValueError(f"{kind} {layer} has keys {tuple(key.shape[::2])}, its prefix {tuple(own_key.shape[::2])}")
        query = torch.cat([query.new_zeros(query.shape[0], self.length, query.shape[2]), query], 1)
        return query, torch.cat([own_key, key], 1), torch.cat([own_value, value], 1)


@dataclass(frozen=True, kw_only=True)
class Attended:
    """One call of the attention: what it multiplies, and which gradients it will be asked for.

    Attributes:
        heads: Query heads.
        key_size: Numbers of a key (and of a query).
        value_size: Numbers of a value.
        query_trains: Whether the queries have a gradient.
        key_trains: Whether the keys have.
        value_trains: Whether the values have.
        apart: Keys that every token sees, with a softmax of their own (`models.adaption`); 0: the forest's.
    """

    heads: int
    key_size: int
    value_size: int
    query_trains: bool
    key_trains: bool
    value_trains: bool
    apart: int = 0


class Planted:
    """A forest on its way through a model, the masks that the model asked for, and its calls of the attention.

    Attributes:
        forest: The batch.
        seen: What the layers are told of it: the batch, or the batch below virtual tokens (`models.virtual`).
        prefix: Their keys and values, where they have no embeddings.
        kept: Which tokens of `seen` are those of `forest`, where virtual ones stand between them; None: all.
        asked: (mask function, window) of each mask, for `models.probe`.
        attended: Each call, for the count of operations.
    """

    def __init__(self, forest: Forest) -> None:
        self.forest = self.seen = forest
        self.prefix: Prefix | None = None
        self.kept: torch.Tensor | None = None
        self.asked: list[tuple[Callable[..., torch.Tensor], int | None]] = []
        self.attended: list[Attended] = []


_PLANTED: ContextVar[Planted | None] = ContextVar("luthier_forest", default=None)


@contextmanager
def planted(forest: Forest) -> Iterator[Planted]:
    """Inside, models that run on attention `luthier` see this forest."""
    now = Planted(forest)
    token = _PLANTED.set(now)
    try:
        yield now
    finally:
        _PLANTED.reset(token)


def planted_now() -> Planted | None:
    """The forest that is on its way through a model, if there is one."""
    return _PLANTED.get()


def _mask(*_: Any, mask_function: Callable[..., torch.Tensor], local_size: int | None = None, **__: Any) -> Seen:
    """What transformers calls to make a mask; `local_size` is the window of the layers that will get it."""
    now = _PLANTED.get()
    if now is None:
        raise ValueError("attention 'luthier': no forest was planted; use luthier.models.serving(model) to generate")
    now.asked.append((mask_function, local_size))
    if not sees_ahead(mask_function):
        return Seen(now.seen, local_size, now.prefix)
    # transformers' windows on both sides let through distances up to their size, its causal ones below it.
    return Seen(now.seen, None if local_size is None else local_size + 1, now.prefix, causal=False)


def sees_ahead(mask_function: Callable[..., torch.Tensor]) -> bool:
    """Whether a mask function of transformers lets a token see the next one: the mask of an encoder."""
    nought, one = torch.zeros((), dtype=torch.int64), torch.ones((), dtype=torch.int64)
    try:
        return bool(mask_function(nought, nought, nought, one))
    except (IndexError, RuntimeError):
        return False  # it looks positions up in the batch; `models.probe` refuses it


# Words that models pass along with every call and that say nothing about who sees whom, or with what weight.
_SILENT = {"position_ids", "use_cache", "output_attentions", "cache_position", "position_embeddings", "past_key_values"}
_SILENT |= {"deterministic"}  # of flash attention's backward pass (ModernBERT)


def _interface(  # noqa: PLR0913 - transformers' own signature
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Seen | torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: [1, H, T, D] in, [1, T, H, D] out. Refuses whatever it would have to guess."""
    kind = type(module).__name__
    if not isinstance(attention_mask, Seen):
        raise ValueError(f"{kind} makes a mask of its own")
    unknown = sorted(name for name, given in other.items() if given is not None and name not in _SILENT)
    if unknown:
        raise ValueError(f"{kind} passes {', '.join(unknown)} to its attention, which Luthier does not know")
    told = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if told is not attention_mask.causal:
        words = {True: "causal", False: "not causal"}
        raise ValueError(f"{kind} is {words[bool(told)]}, its mask is {words[attention_mask.causal]}")
    # transformers' sdpa and eager attention read the window from the mask, its flash attention from this argument.
    if sliding_window not in (None, attention_mask.window):
        raise ValueError(f"{kind} has a window of {sliding_window}, its mask one of {attention_mask.window}")
    queries, keys, values = query[0], key[0], value[0]
    prefix = attention_mask.prefix
    if prefix is not None:
        queries, keys, values = prefix.before(module, queries, keys, values)
    if (now := _PLANTED.get()) is not None:
        now.attended.append(
            Attended(
                heads=query.shape[1],
                key_size=query.shape[-1],
                value_size=value.shape[-1],
                query_trains=query.requires_grad,
                key_trains=keys.requires_grad,
                value_trains=values.requires_grad,
            )
        )
    out = forest_attention(
        queries,
        keys,
        values,
        attention_mask.forest,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        sliding_window=attention_mask.window,
        causal=attention_mask.causal,
        softcap=softcap,
        sinks=s_aux,
        dropout=dropout,
    )
    if prefix is not None:
        out = out[:, prefix.length :]
    return out.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(NAME, _interface)
AttentionMaskInterface.register(NAME, _mask)
