# SPDX-License-Identifier: Apache-2.0
"""Head and embedding: which modules they are, and whether they are one matrix (a tied model) or two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn


def head_of(model: nn.Module) -> nn.Module | None:
    """The module that makes logits, where the model has one."""
    find = getattr(model, "get_output_embeddings", None)
    return find() if callable(find) else None


def embedding_of(model: nn.Module) -> nn.Module | None:
    """The module that embeds token ids, where the model has one."""
    find = getattr(model, "get_input_embeddings", None)
    return find() if callable(find) else None


def tied_pair(model: nn.Module) -> tuple[str, str] | None:
    """Names of the embedding and the head where both are one matrix, else None."""
    head, embedding = head_of(model), embedding_of(model)
    if head is None or embedding is None or head.weight is not embedding.weight:
        return None
    names = {id(module): name for name, module in model.named_modules()}
    return names[id(embedding)], names[id(head)]


def settle_ties(model: nn.Module) -> None:
    """Make the configuration say what is so: head and embedding are one matrix, or two.

    Of a tied model whose head and embedding hold the same numbers, they become one matrix again; where they differ,
    `tie_word_embeddings` becomes false, so that saving writes both and loading reads both (an encoder-decoder's stays).
    """
    config: Any = getattr(model, "config", None)
    head, embedding = head_of(model), embedding_of(model)
    if not getattr(config, "tie_word_embeddings", False) or head is None or embedding is None:
        return
    if head.weight is not embedding.weight and torch.equal(head.weight, embedding.weight):  # type: ignore[arg-type]
        head.weight = embedding.weight
    if head.weight is embedding.weight or config.is_encoder_decoder:
        return  # T5 reads its head's scale from that key, and transformers leaves apart what a checkpoint holds apart
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for one in (config, text):
        one.tie_word_embeddings = False
    if hasattr(model, "get_expanded_tied_weights_keys"):
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)  # type: ignore[operator]
