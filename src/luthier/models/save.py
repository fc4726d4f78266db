# SPDX-License-Identifier: Apache-2.0
"""A model and its tokenizer -> a transformers folder whose generation settings are what was loaded and trained."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from luthier.models.bars import without_bars
from luthier.models.generate import stop_ids
from luthier.models.values import padding_of, value_head

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(model: PreTrainedModel, folder: Path, max_shard_size: str = "50GB") -> None:
    """Write weights and configuration as transformers does.

    transformers loads generation settings that contradict each other (Llama 2's temperature without sampling) and then
    refuses to save them. They are written as they were loaded: a run must not fail at its end for them.

    Args:
        model: Plain: no method's layers in it.
        folder: Exists.
        max_shard_size: Largest file of weights; the default is transformers'.
    """
    try:
        with without_bars():
            model.save_pretrained(folder, max_shard_size=max_shard_size)
    except ValueError:
        kept = model.generation_config
        if kept is None:
            raise
        model.generation_config = type(kept)()
        with without_bars():
            model.save_pretrained(folder, max_shard_size=max_shard_size)
        model.generation_config = kept
        (folder / "generation_config.json").write_text(kept.to_json_string(), encoding="utf-8")


def save_words(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, folder: Path) -> None:
    """Write the tokenizer beside its model, and have plain transformers stop where `luthier generate` does.

    A base that ends texts with `<|endoftext|>` and was trained on turns that end with `<|im_end|>` would talk on
    behind them: what its generation_config.json lacks is added there. An adapter's folder has no such file.

    Of a reward model, the tokenizer pads with what the model takes for padding: values are read before that.

    Args:
        tokenizer: With the chat template of the training.
        model: As it was written to `folder`.
        folder: Holds the model, or an adapter.
    """
    padding = padding_of(model)
    if value_head(model) is not None and padding is not None and tokenizer.pad_token_id != padding:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding) or tokenizer.pad_token
    tokenizer.save_pretrained(folder)
    file = folder / "generation_config.json"
    if not file.exists():
        return
    settings = json.loads(file.read_text(encoding="utf-8"))
    told = settings.get("eos_token_id")
    own = told if isinstance(told, list) else [told] * (told is not None)
    if more := [token for token in stop_ids(model, tokenizer) if token not in own]:
        settings["eos_token_id"] = [*own, *more] if own or len(more) > 1 else more[0]
        file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
