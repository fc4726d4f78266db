# SPDX-License-Identifier: Apache-2.0
"""Virtual tokens of a model that reads both ways: a copy of them inside every text, or keys and values before it.

    embeddings         [p_1 ... p_n, text]: they see the text, so they differ from text to text: no parent segment
                       of all texts can hold them, and every text pays n tokens more
    keys and values    they see nothing; they stay one parent segment of all texts

As in PEFT, a head that reads a text's first vector reads that of the first virtual token, and positions of words go on
behind the virtual ones. The hooks stand on the whole model, as PEFT's do, since its head has to see what was put in.

Shapes: B rows, L tokens of a row, T tokens, n virtual tokens, H hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from luthier.kernels.inserted import under, within
from luthier.models.encoders import first_position, takes
from luthier.models.heads import task_of_model
from luthier.models.planted import Prefix, planted_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from luthier.models.virtual import VirtualTokens

_OF_TOKENS = ("logits", "start_logits", "end_logits", "last_hidden_state")


def hook_encoder(model: PreTrainedModel, virtual: VirtualTokens) -> tuple[Any, ...]:
    """Have virtual tokens put into whatever an encoder is asked, and taken out of what it says of tokens."""
    before = model.register_forward_pre_hook(_putting(virtual), with_kwargs=True)
    return before, model.register_forward_hook(_taking(virtual))


def _putting(virtual: VirtualTokens) -> Callable[..., tuple[tuple[()], dict[str, Any]]]:
    def put(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        given = virtual.named(model, args) | kwargs
        virtual.added = 0
        if not virtual.active:
            return (), given
        if (now := planted_now()) is None:
            return (), _in_rows(model, virtual, given)
        if virtual.heads is not None:
            now.seen, now.prefix = under(now.forest, virtual.length), Prefix(virtual.states(model.dtype))
            if given.get("position_ids") is not None:
                given["position_ids"] = given["position_ids"] + virtual.length
            return (), given
        now.seen, now.kept, sources = within(now.forest, virtual.length)
        own = model.get_input_embeddings()(given.pop("input_ids"))[0]
        vectors = torch.cat([virtual().to(own.dtype), own]).index_select(0, sources)
        given["inputs_embeds"] = vectors[None]
        if given.get("position_ids") is not None:
            given["position_ids"] = now.seen.position_ids[None] + first_position(model.get_decoder())
        if given.get("token_type_ids") is not None:
            types = now.seen.type_ids
            given["token_type_ids"] = (torch.zeros_like(now.seen.input_ids) if types is None else types)[None]
        return (), given

    return put


def _in_rows(model: Any, virtual: VirtualTokens, given: dict[str, Any]) -> dict[str, Any]:
    """What transformers' own attention is asked: a batch of rows, padded behind."""
    ids, length = given.get("input_ids"), virtual.length
    rows, device = (given["inputs_embeds"] if ids is None else ids).shape[0], model.device
    if (mask := given.get("attention_mask")) is not None:
        given["attention_mask"] = torch.cat([mask.new_ones(rows, length), mask], 1)
    positions, start = given.get("position_ids"), first_position(model.get_decoder())
    if virtual.heads is not None:
        given["past_key_values"] = _filled(virtual, rows, model)
        if positions is not None:
            given["position_ids"] = positions + length
        elif takes(model.get_decoder(), "position_ids"):
            words = (given["inputs_embeds"] if ids is None else ids).shape[1]
            given["position_ids"] = torch.arange(start + length, start + length + words, device=device)[None]
        return given
    own = model.get_input_embeddings()(ids) if ids is not None else given["inputs_embeds"]
    given |= {"input_ids": None, "inputs_embeds": torch.cat([virtual().to(own.dtype).expand(rows, -1, -1), own], 1)}
    if positions is not None:
        first = torch.arange(start, start + length, device=device).expand(*positions.shape[:-1], length)
        given["position_ids"] = torch.cat([first, positions + length], -1)
    if (types := given.get("token_type_ids")) is not None:
        given["token_type_ids"] = torch.cat([types.new_zeros(rows, length), types], 1)
    virtual.added = length
    return given


def _filled(virtual: VirtualTokens, rows: int, model: Any) -> DynamicCache:
    cache = DynamicCache()
    states = virtual.states(model.dtype)[:, None].expand(-1, rows, -1, -1, -1)
    for layer in range(len(states) // 2):
        cache.update(states[2 * layer], states[2 * layer + 1], layer)
    return cache


def _taking(virtual: VirtualTokens) -> Callable[[Any, Any, Any], Any]:
    def take(model: Any, _: Any, output: Any) -> Any:
        if virtual.added and task_of_model(model) != "SEQ_CLS":
            for name in _OF_TOKENS:
                if (found := getattr(output, name, None)) is not None:
                    setattr(output, name, found[:, virtual.added :])
        return output

    return take
