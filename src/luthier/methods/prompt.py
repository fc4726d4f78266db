# SPDX-License-Identifier: Apache-2.0
"""Prompt tuning: trained embeddings before every example, and a frozen model.

    h_0 = [p_1 ... p_n, E(x_1) ... E(x_L)]        p trains, [n, H]

The virtual tokens are one parent segment of all trees of a batch, so they run through the model once for all of them.

References:
    Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning, arXiv 2104.08691, section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from luthier.core.errors import RecipeError
from luthier.methods._virtual import ALONE, LEAVES_BASE, PromptEmbeddings, load_virtual, train_virtual, wide, width_of
from luthier.models.load import load_tokenizer
from luthier.models.virtual import VirtualTokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable

__all__ = ["ALONE", "LEAVES_BASE", "PEFT_TYPE", "Config", "apply", "load_peft"]

PEFT_TYPE = "PROMPT_TUNING"


class Config(BaseModel):
    """Prompt tuning's keys, spelt as in PEFT."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_virtual_tokens: Annotated[int, Field(gt=0)] = 20
    """Virtual tokens before every example."""
    prompt_tuning_init: Literal["TEXT", "SAMPLE_VOCAB", "RANDOM"] = "SAMPLE_VOCAB"
    """Where they begin: embeddings of a text, of words drawn at random, or normal numbers (PEFT's default)."""
    prompt_tuning_init_text: str | None = None
    """The text of TEXT, repeated or cut to num_virtual_tokens."""
    tokenizer_name_or_path: str | None = None
    """The tokenizer of TEXT, where it is not the model's own."""


def apply(model: PreTrainedModel, config: Config) -> Trainable:
    """Freeze the model and put trained embeddings before every example.

    Args:
        model: Loaded by :func:`luthier.models.load_model`; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A text without `TEXT`, `TEXT` without one, or no tokenizer for it.
        ModelError: The model cannot have virtual tokens.

    Reference:
        Lester et al., arXiv 2104.08691.
    """
    if (config.prompt_tuning_init == "TEXT") != bool(config.prompt_tuning_init_text):
        received = f"{config.prompt_tuning_init_text!r} with prompt_tuning_init {config.prompt_tuning_init}"
        raise RecipeError("method.prompt_tuning_init_text", received, "a text for TEXT, and none elsewhere")
    if config.tokenizer_name_or_path and config.prompt_tuning_init != "TEXT":
        received = f"a tokenizer with prompt_tuning_init {config.prompt_tuning_init}"
        raise RecipeError("method.tokenizer_name_or_path", received, "one for TEXT", "remove it")
    told = {"peft_type": PEFT_TYPE, "prompt_tuning_init": config.prompt_tuning_init}
    if config.prompt_tuning_init == "TEXT":
        told["prompt_tuning_init_text"] = config.prompt_tuning_init_text or ""
        told["tokenizer_name_or_path"] = _tokenizer_of(model, config)
    encoder = PromptEmbeddings(_start(model, config))
    return train_virtual(model, VirtualTokens(encoder, config.num_virtual_tokens), told)


def load_peft(model: PreTrainedModel, given: Mapping[str, Any], where: str) -> Trainable:
    """Put the virtual tokens of a PEFT configuration before a model; their numbers are filled in afterwards.

    Raises:
        ModelError: It does not fit the model.
    """
    return load_virtual(model, given, where, (width_of(model), 0, 0))


@torch.no_grad()
def _start(model: PreTrainedModel, config: Config) -> torch.Tensor:
    """The first vectors, [n, H]."""
    n, embedding = config.num_virtual_tokens, model.get_input_embeddings()
    if config.prompt_tuning_init == "RANDOM":
        return torch.randn(n, width_of(model)).to(**wide(model))
    words: Any = embedding.weight
    if config.prompt_tuning_init == "TEXT":
        ids = load_tokenizer(_tokenizer_of(model, config))(config.prompt_tuning_init_text)["input_ids"]
        if not ids:
            raise RecipeError("method.prompt_tuning_init_text", "a text without tokens", "one token or more")
        chosen = torch.tensor((list(ids) * n)[:n])
    else:
        chosen = torch.randint(0, words.shape[0], (n,))
    return embedding(chosen.to(words.device)).to(**wide(model))


def _tokenizer_of(model: PreTrainedModel, config: Config) -> str:
    name = config.tokenizer_name_or_path or model.config._name_or_path
    if not name:
        received = "none, and the model does not say where it came from"
        raise RecipeError("method.tokenizer_name_or_path", received, "a folder or a hub name", "name one")
    return str(name)
