# SPDX-License-Identifier: Apache-2.0
"""A run or an adapter folder -> its base with the adapter on it, its tokenizer, and the names of its labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.errors import ModelError
from luthier.export.adapter import load_adapter
from luthier.export.held_out import load_words
from luthier.export.origin import find_origin
from luthier.models.purpose import name_labels, read_purpose

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_adapted(path: Path, pick: Callable[[str], torch.dtype]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a base and put its adapter on it.

    Args:
        path: A run's folder, or an adapter's.
        pick: Chooses the numbers, from what the recipe says of them.

    Raises:
        UserError: There is no adapter, or its base is not there.
        ModelError: It cannot be loaded.
    """
    origin = find_origin(path)
    model = origin.load_base(pick(origin.model.dtype))
    load_adapter(model, origin.adapter)
    if purpose := read_purpose(origin.adapter):
        name_labels(model.config, purpose.labels)
    tokenizer = load_words(origin)
    if tokenizer is None:
        where = f"adapter {origin.adapter}"
        raise ModelError(where, "no tokenizer, and none with its base", "tokenizer.json", "add it to the base")
    return model, tokenizer
