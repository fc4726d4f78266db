# SPDX-License-Identifier: Apache-2.0
"""Tiny random reward models, as folders and in memory, for tests of heads of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tests.tiny import tiny

from luthier.models import load_model
from luthier.recipe import Model

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


def base(folder: Path, family: str = "llama") -> Path:
    """A tiny language model's folder."""
    if not folder.exists():
        tiny(family).save_pretrained(folder)
    return folder


def reward(folder: Path, **words: Any) -> PreTrainedModel:
    """The folder's model with a head of values, float32, ready for forests."""
    words = {"task": "SEQ_CLS", "say": lambda _: None} | words
    return load_model(Model(model_name_or_path=str(folder)), torch.float32, **words).eval()


@torch.no_grad()
def shake(parameters: Any, size: float = 0.1) -> None:
    """Move parameters: fresh adapters do nothing."""
    for parameter in parameters:
        parameter.add_(size * torch.randn_like(parameter))
