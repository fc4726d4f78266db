# SPDX-License-Identifier: Apache-2.0
"""How others load an export: the lines of a model card that its reader copies."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from luthier.export.adapter import TASKS
from luthier.export.markdown import flat
from luthier.models.tasks import auto_class, saved_for
from luthier.recipe.tasks import task_of

if TYPE_CHECKING:
    from pathlib import Path

    from luthier.core.tasks import Task
    from luthier.export.origin import Origin

# The hub's name of what a model does.
PIPELINES: dict[str, str] = {
    "CAUSAL_LM": "text-generation",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
    "SEQ_2_SEQ_LM": "text2text-generation",
}
_HERE = "THIS_FOLDER_OR_REPOSITORY"


def task_in(origin: Origin, folder: Path) -> Task | None:
    """What a result is for: its recipe says it, its adapter, or what was written; None where nothing does."""
    if origin.recipe is not None:
        return task_of(origin.recipe)
    if (told := origin.config.get("task_type")) in TASKS:
        return told
    if any(folder.glob("*.gguf")):
        return "CAUSAL_LM"
    if not (folder / "config.json").is_file():
        return origin.task
    from transformers import AutoConfig

    return saved_for(AutoConfig.from_pretrained(folder))


def usage(folder: Path, library: str, task: Task | None, base: str | None) -> str:
    """The section, or nothing where it is not known what is to be loaded.

    Args:
        folder: The export's.
        library: As in :func:`luthier.export.card.write_card`.
        task: What the model is for.
        base: The hub's name of an adapter's base; None of one that others do not find by a name.
    """
    if library == "gguf":
        file = next((file.name for file in sorted(folder.glob("*.gguf"))), "FILE.gguf")
        return _block("sh", [f"llama-cli --conversation --model {shlex.quote(flat(file))}"])
    if library == "luthier":
        return _block("python", ["import luthier", "", f'model, tokenizer = luthier.load("{_HERE}")'])
    if task is None:
        return ""
    loader = auto_class(task).__name__
    lines = [f"from transformers import {loader}, AutoTokenizer", ""]
    if library == "peft":
        lines[0] = f"from peft import PeftModel\n{lines[0]}"
        lines.append(f"base = {loader}.from_pretrained({json.dumps(base or 'THE_BASE')})")
        lines.append(f'model = PeftModel.from_pretrained(base, "{_HERE}")')
    else:
        lines.append(f'model = {loader}.from_pretrained("{_HERE}")')
    return _block("python", [*lines, f'tokenizer = AutoTokenizer.from_pretrained("{_HERE}")'])


def _block(language: str, lines: list[str]) -> str:
    text = "\n".join(lines)
    return f"## Use\n\n```{language}\n{text}\n```"
