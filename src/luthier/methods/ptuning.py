# SPDX-License-Identifier: Apache-2.0
"""P-tuning: embeddings before every example that a small trained network computes, and a frozen model.

    p = MLP(e)    or    p = MLP(BiLSTM(e))        e [n, H] and the network train

A served adapter is the computed embeddings alone. See `prompt` for how they stand before a batch.

References:
    Liu et al., GPT Understands, Too, arXiv 2103.10385, section 3; the MLP and its sizes as in PEFT 0.21.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from luthier.core.errors import RecipeError
from luthier.methods._virtual import ALONE, LEAVES_BASE, check_computed, load_virtual, train_virtual, wide, width_of
from luthier.models.virtual import ENCODER_FILE, VirtualTokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable

__all__ = ["ALONE", "LEAVES_BASE", "PEFT_TYPE", "Config", "apply", "check_agrees", "load_peft"]

PEFT_TYPE = "P_TUNING"


class Config(BaseModel):
    """P-tuning's keys, spelt as in PEFT."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_virtual_tokens: Annotated[int, Field(gt=0)] = 20
    """Virtual tokens before every example."""
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """What computes their embeddings: an MLP of three layers, or a bidirectional LSTM and an MLP of two."""
    encoder_hidden_size: Annotated[int | None, Field(gt=0)] = None
    """Width of that network; default the model's."""
    encoder_num_layers: Annotated[int, Field(gt=0)] = 2
    """Layers of the LSTM."""
    encoder_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share that is dropped between the layers of the LSTM in training."""


class PromptEncoder(nn.Module):
    """Embeddings through a network, [n, H] to [n, H]; names of the layers as in PEFT.

    Args:
        length: n.
        width: H.
        config: The recipe's section.
    """

    def __init__(self, length: int, width: int, config: Config) -> None:
        super().__init__()
        hidden = config.encoder_hidden_size or width
        self.embedding = nn.Embedding(length, width)
        self.lstm_head: nn.LSTM | None = None
        if config.encoder_reparameterization_type == "LSTM":
            layers, dropout = config.encoder_num_layers, config.encoder_dropout
            self.lstm_head = nn.LSTM(width, hidden, layers, dropout=dropout, bidirectional=True, batch_first=True)
            inner = [nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, width)]
        else:
            inner = [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
            inner.append(nn.Linear(hidden, width))
        self.mlp_head = nn.Sequential(*inner)

    def forward(self) -> torch.Tensor:
        """[n, H]."""
        vectors: torch.Tensor = self.embedding.weight
        if self.lstm_head is not None:
            vectors = self.lstm_head(vectors[None])[0][0]
        computed: torch.Tensor = self.mlp_head(vectors)
        return computed


def apply(model: PreTrainedModel, config: Config) -> Trainable:
    """Freeze the model and put embeddings before every example that a trained network computes.

    Args:
        model: Loaded by :func:`luthier.models.load_model`; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A key of the LSTM for the MLP, or a dropout between the layers of an LSTM that has one.
        ModelError: The model cannot have virtual tokens.

    Reference:
        Liu et al., arXiv 2103.10385.
    """
    fields = Config.model_fields
    for key in ("encoder_num_layers", "encoder_dropout"):
        changed = getattr(config, key) != fields[key].default
        if changed and config.encoder_reparameterization_type == "MLP":
            received = f"{getattr(config, key)} with encoder_reparameterization_type MLP"
            raise RecipeError(f"method.{key}", received, "it is the LSTM's", "remove it, or choose LSTM")
    if config.encoder_dropout and config.encoder_num_layers == 1:
        received = f"{config.encoder_dropout} with one layer"
        raise RecipeError("method.encoder_dropout", received, "it acts between layers", "remove it")
    encoder = PromptEncoder(config.num_virtual_tokens, width_of(model), config).to(**wide(model))
    keys = ("encoder_reparameterization_type", "encoder_num_layers", "encoder_dropout")
    told = {"peft_type": PEFT_TYPE, **{key: getattr(config, key) for key in keys}}
    told["encoder_hidden_size"] = config.encoder_hidden_size or width_of(model)
    return train_virtual(model, VirtualTokens(encoder, config.num_virtual_tokens), told)


def load_peft(model: PreTrainedModel, given: Mapping[str, Any], where: str) -> Trainable:
    """Put the computed embeddings of a PEFT folder before a model; their numbers are filled in afterwards.

    Raises:
        ModelError: It does not fit the model.
    """
    return load_virtual(model, given, where, (width_of(model), 0, 0))


def check_agrees(model: nn.Module, given: Mapping[str, Any], where: str) -> None:
    """Refuse to go on from a folder without the encoder.

    Raises:
        RecipeError: The folder holds only what its encoder gave.
    """
    check_computed(model, given, where, Path(where) / ENCODER_FILE)
