# SPDX-License-Identifier: Apache-2.0
"""Keys and values of many sequences in slots, and how they reach a transformers model: in the place of its masks.

    with slots.passing(layout):
        model(input_ids, position_ids=..., use_cache=False)        each layer keeps its keys and reads its slots

As in `models.planted`: a layer that reads or changes its mask fails instead of being wrong.

Shapes: T tokens of a pass, S slots, C positions of a slot, K key heads, H query heads, D head size.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from luthier.kernels.native_slots import fits, native_slots
from luthier.kernels.slots import Score, attend
from luthier.models.planted import sees_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from luthier.kernels.slots import Layout

    Begun = list[tuple[torch.Tensor, torch.Tensor]]  # of each layer: keys and values [K, n, D]

NAME = "luthier_slots"


class Slots:
    """Keys and values of every layer.

    Args:
        count: S, sequences at once.
        capacity: C, tokens of each.
    """

    def __init__(self, count: int, capacity: int) -> None:
        self.count, self.capacity = count, capacity
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.layout: Layout | None = None

    def of(self, module: torch.nn.Module, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The cache of a layer: keys and values [S, K, C, D]; made at its first pass."""
        if id(module) not in self._layers:
            sizes = [(self.count, one.shape[0], self.capacity, one.shape[2]) for one in (key, value)]
            made = [_zeros(size, key.dtype, key.device) for size in sizes]
            self._layers[id(module)] = (made[0], made[1])
        return self._layers[id(module)]

    def put(self, slots: Sequence[int], begun: Begun) -> None:
        """Let sequences begin with some keys and values; a pass has been there before."""
        places = list(slots)
        for own, given in zip(self._layers.values(), begun, strict=True):
            for kept, states in zip(own, given, strict=True):
                kept[places, :, : states.shape[1]] = states.to(kept)

    def begun(self, slot: int, length: int) -> Begun:
        """A copy of what a sequence begins with."""
        return [(k[slot, :, :length].clone(), v[slot, :, :length].clone()) for k, v in self._layers.values()]

    def clear(self, slot: int, length: int) -> None:
        """Forget a sequence. What is masked is multiplied by zero, and zero times NaN would reach the next one."""
        for keys, values in self._layers.values():
            keys[slot, :, :length] = 0
            values[slot, :, :length] = 0

    @property
    def num_bytes(self) -> int:
        """Of all slots, when they are full."""
        return sum(one.numel() * one.element_size() for pair in self._layers.values() for one in pair)

    @contextmanager
    def passing(self, layout: Layout) -> Iterator[None]:
        """Inside, models that run on this attention see these pieces."""
        self.layout = layout
        token = _NOW.set(self)
        try:
            yield
        finally:
            _NOW.reset(token)
            self.layout = None


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros whose pages of memory a CPU gives when they are first written; `torch.zeros` writes them all at once."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, np.uint8)).view(dtype).view(size)


_NOW: ContextVar[Slots | None] = ContextVar("luthier_slots", default=None)


@dataclass(frozen=True, eq=False)
class Window:
    """What a layer is told in place of a mask: the slots, and how far back it sees (None: to the beginning)."""

    slots: Slots
    size: int | None


def _mask(*_: Any, mask_function: Callable[..., torch.Tensor], local_size: int | None = None, **__: Any) -> Window:
    """What transformers calls to make a mask."""
    now = _NOW.get()
    if now is None:
        raise ValueError(f"attention {NAME!r}: no slots; it runs inside Slots.passing")
    if sees_ahead(mask_function):
        raise ValueError("a model that reads both ways writes no replies")
    return Window(now, local_size)


# Words that models pass along with every call and that say nothing about who sees whom, or with what weight.
_SILENT = {"position_ids", "use_cache", "output_attentions", "cache_position", "position_embeddings", "past_key_values"}


def _interface(  # noqa: PLR0913 - transformers' own signature
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Window | torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001 - of training
    *,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,  # noqa: ARG001 - the mask was looked at
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: [1, H, T, D] in, [1, T, H, D] out. Refuses whatever it would have to guess."""
    kind = type(module).__name__
    if not isinstance(attention_mask, Window):
        raise ValueError(f"{kind} makes a mask of its own")
    if unknown := sorted(name for name, given in other.items() if given is not None and name not in _SILENT):
        raise ValueError(f"{kind} passes {', '.join(unknown)} to its attention, which Luthier does not know")
    window, slots = attention_mask.size, attention_mask.slots
    if sliding_window not in (None, window):
        raise ValueError(f"{kind} has a window of {sliding_window}, its mask one of {window}")
    layout = slots.layout
    assert layout is not None
    keys, values = slots.of(module, key[0], value[0])
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if softcap is None and s_aux is None and fits(query, key, value, keys, values, layout):
        return native_slots(query[0], key[0], value[0], keys, values, layout, window, scaling)[None], None
    keys[layout.slots, :, layout.position_ids] = key[0].transpose(0, 1)
    values[layout.slots, :, layout.position_ids] = value[0].transpose(0, 1)
    out = attend(query[0].transpose(0, 1), keys, values, layout, window, Score(scaling, softcap, s_aux))
    return out[None], None


AttentionInterface.register(NAME, _interface)
AttentionMaskInterface.register(NAME, _mask)
