# SPDX-License-Identifier: Apache-2.0
"""Virtual tokens of encoder-decoders, where PEFT has them: embeddings before every source, or keys of the decoder.

    embeddings         n rows before the source's own, in the encoder; cross attention sees what it makes of them
    keys and values    n of them before the target in each self-attention of the decoder (a cache that begins with them)

Embeddings are read in both directions, so every source needs rows of its own: they cannot be computed once for all.
Keys and values are given out as PEFT 0.21 does it, so that its files mean the same: layer i of L has those of pair
2 i modulo L. Where L is even, the layers of the second half share those of the first, and half of all pairs are unread.

PEFT keeps 2 n embeddings for such models (`num_transformer_submodules`) and gives the encoder the first n; nobody reads
the rest. Here there are n.

Shapes: B sources, L tokens of the longest, n virtual tokens, H hidden.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from luthier.models.virtual import VirtualTokens


def pair_of(layer: int, layers: int) -> int:
    """Which pair of keys and values a layer of the decoder has.

    Example:
        >>> [pair_of(layer, 4) for layer in range(4)], [pair_of(layer, 3) for layer in range(3)]
        ([0, 2, 0, 2], [0, 2, 1])
    """
    return 2 * layer % layers


def lay_before_sources(model: PreTrainedModel, virtual: VirtualTokens) -> tuple[Any, ...]:
    """Put embeddings before every source that an encoder-decoder is asked.

    Returns:
        The hooks, to be removed.

    Raises:
        ModelError: The encoder scales its embeddings by itself: PEFT leaves that out where it gives embeddings.
    """
    encoder: Any = model.get_encoder()
    decoder: Any = model.get_decoder()
    if getattr(encoder, "embed_scale", 1.0) != 1.0:
        received = "an encoder that scales the embeddings of words, but not those that it is given"
        raise ModelError(f"model {type(model).__name__}", received, "one that does not", "choose prefix, or lora")
    return (
        encoder.register_forward_pre_hook(_before_source(virtual), with_kwargs=True),
        decoder.register_forward_pre_hook(_shown(virtual), with_kwargs=True),
    )


def _before_source(virtual: VirtualTokens) -> Callable[..., Any]:
    def before(encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        given = _named(encoder, args, kwargs)
        if not virtual.active:
            return (), given
        own = given.get("inputs_embeds")
        own = encoder.get_input_embeddings()(given["input_ids"]) if own is None else own
        vectors = virtual().to(own.dtype).expand(own.shape[0], -1, -1)
        given |= {"input_ids": None, "inputs_embeds": torch.cat([vectors, own], 1)}
        given["attention_mask"] = _longer(given.get("attention_mask"), virtual.length)
        return (), given

    return before


def _shown(virtual: VirtualTokens) -> Callable[..., Any]:
    """Let cross attention see them: the mask that a decoder is given is that of the words alone."""

    def before(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        given = _named(decoder, args, kwargs)
        if virtual.active:
            given["encoder_attention_mask"] = _longer(given.get("encoder_attention_mask"), virtual.length)
        return (), given

    return before


def _named(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs


def _longer(mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """A mask [B, L] with ones in front."""
    return None if mask is None else torch.cat([mask.new_ones(mask.shape[0], length), mask], 1)
