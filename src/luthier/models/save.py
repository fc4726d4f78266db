# SPDX-License-Identifier: Apache-2.0
"""A model -> a transformers folder, also where its generation settings would stop transformers from writing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write weights and configuration as transformers does.

    transformers loads generation settings that contradict each other (Llama 2's temperature without sampling) and then
    refuses to save them. They are written as they were loaded: a run must not fail at its end for them.

    Args:
        model: Plain: no method's layers in it.
        folder: Exists.
    """
    try:
        model.save_pretrained(folder)
    except ValueError:
        kept = model.generation_config
        if kept is None:
            raise
        model.generation_config = type(kept)()
        model.save_pretrained(folder)
        model.generation_config = kept
        (folder / "generation_config.json").write_text(kept.to_json_string(), encoding="utf-8")
