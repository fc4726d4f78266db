# SPDX-License-Identifier: Apache-2.0
"""Prefix tuning: trained keys and values before every example in each layer, and a frozen model.

    attention(Q, [K_p; K], [V_p; V])        K_p, V_p [n, K D] of each layer train, or are MLP(e) and e and the MLP do

Virtual tokens of this kind have no queries and run through no layer: a batch pays n more keys a token.

References:
    Li and Liang, Prefix-Tuning, arXiv 2101.00190, sections 4.2 and 4.3 (the reparameterisation).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers import DynamicCache

from luthier.core.errors import ModelError, RecipeError
from luthier.methods._virtual import (
    ALONE,
    LEAVES_BASE,
    PromptEmbeddings,
    check_computed,
    load_virtual,
    train_virtual,
    wide,
)
from luthier.models.backbone import serving
from luthier.models.encoders import reads_both_ways, takes
from luthier.models.source_target import is_encoder_decoder, target_layers
from luthier.models.virtual import ENCODER_FILE, VirtualTokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable

__all__ = ["ALONE", "LEAVES_BASE", "PEFT_TYPE", "Config", "apply", "check_agrees", "load_peft"]

PEFT_TYPE = "PREFIX_TUNING"


class Config(BaseModel):
    """Prefix tuning's keys, spelt as in PEFT."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_virtual_tokens: Annotated[int, Field(gt=0)] = 20
    """Virtual tokens before every example, in each layer."""
    prefix_projection: bool = False
    """Compute keys and values from embeddings by an MLP of two layers, which trains (the paper's way)."""
    encoder_hidden_size: Annotated[int | None, Field(gt=0)] = None
    """Width of that MLP; default that of a layer's keys."""
    init_weights: Literal["zero"] | None = None
    """`zero` begins with keys and values of zeros; by default they are normal numbers."""


class PrefixEncoder(nn.Module):
    """Embeddings through an MLP, [n, W] to [n, 2 layers W]; names of the layers as in PEFT.

    Args:
        length: n.
        width: W = K D, numbers of a token's keys in one layer.
        hidden: Width of the MLP.
        layers: Of the model.
    """

    def __init__(self, length: int, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(length, width)
        self.transform = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 2 * layers * width))

    def forward(self) -> torch.Tensor:
        """[n, 2 layers W]."""
        computed: torch.Tensor = self.transform(self.embedding.weight)
        return computed


def apply(model: PreTrainedModel, config: Config) -> Trainable:
    """Freeze the model and put trained keys and values before every example in each layer.

    Args:
        model: Loaded by :func:`luthier.models.load_model`; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A key of the MLP without it.
        ModelError: The model's layers have keys of several shapes, or values of another one, or no cache of them.

    Reference:
        Li and Liang, arXiv 2101.00190.
    """
    if config.encoder_hidden_size and not config.prefix_projection:
        received = f"{config.encoder_hidden_size} without prefix_projection"
        raise RecipeError(
            "method.encoder_hidden_size", received, "it is the projection's", "set prefix_projection: true"
        )
    layers, heads, size = key_shape(model)
    n, width = config.num_virtual_tokens, heads * size
    encoder: nn.Module
    if config.prefix_projection:
        encoder = PrefixEncoder(n, width, config.encoder_hidden_size or width, layers)
        last: Any = encoder.transform[-1]
        begun = [last.weight, last.bias]
    else:
        encoder = PromptEmbeddings(torch.randn(n, 2 * layers * width))
        begun = [encoder.prompt_embeddings]
    for parameter in begun if config.init_weights == "zero" else ():
        nn.init.zeros_(parameter)
    told = {"peft_type": PEFT_TYPE, "prefix_projection": config.prefix_projection, "init_weights": config.init_weights}
    told["encoder_hidden_size"] = config.encoder_hidden_size or width
    return train_virtual(model, VirtualTokens(encoder.to(**wide(model)), n, (heads, size)), told)


def load_peft(model: PreTrainedModel, given: Mapping[str, Any], where: str) -> Trainable:
    """Put the prefix of a PEFT folder before a model; its numbers are filled in afterwards.

    Raises:
        ModelError: It does not fit the model.
    """
    layers, heads, size = key_shape(model)
    return load_virtual(model, given, where, (2 * layers * heads * size, heads, size))


def check_agrees(model: nn.Module, given: Mapping[str, Any], where: str) -> None:
    """Refuse to go on from a folder without the projection.

    Raises:
        RecipeError: The folder holds only what its projection gave.
    """
    check_computed(model, given, where, Path(where) / ENCODER_FILE)


def key_shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """Layers, key heads and head size, read from the cache that the model fills for one token.

    Raises:
        ModelError: Layers differ, values have another shape than keys, or layers share keys.
    """
    ids = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    with serving(model):
        cache: Any = DynamicCache()
        if not reads_both_ways(model):
            cache = model.get_decoder()(input_ids=ids, use_cache=True).past_key_values
        elif takes(model.get_decoder(), "past_key_values"):  # an encoder fills no cache but a given one
            model.get_decoder()(input_ids=ids, past_key_values=cache)
    cache = getattr(cache, "self_attention_cache", cache)  # an encoder-decoder's has that of the source besides
    shapes = {
        tuple(part.shape[1::2]) if isinstance(part, torch.Tensor) else None
        for layer in cache.layers
        for part in (getattr(layer, "keys", None), getattr(layer, "values", None))
    }
    text = model.config.get_text_config()
    layers = target_layers(text) if is_encoder_decoder(model) else text.num_hidden_layers
    if len(shapes) != 1 or None in shapes or len(cache.layers) != layers:
        received = f"keys and values of {len(shapes)} shapes in {len(cache.layers)} of {layers} layers"
        allowed = "one shape of keys and values in all layers"
        raise ModelError(f"model {type(model).__name__}", received, allowed, "choose prompt, ptuning or lora")
    heads, size = shapes.pop()  # type: ignore[misc]
    return layers, heads, size
