# SPDX-License-Identifier: Apache-2.0
"""Keys of ``data`` that mean nothing to a kind of rows are refused, never passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.errors import RecipeError

if TYPE_CHECKING:
    from luthier.core.tasks import RowKind, Task
    from luthier.recipe.schema import Data

LABELLED: tuple[RowKind, ...] = ("labelled", "tagged")
WINDOWED: tuple[RowKind, ...] = ("tagged", "question")


def fitting(data: Data, kind: RowKind, task: Task = "CAUSAL_LM") -> None:
    """Refuse keys that mean nothing to such rows.

    Raises:
        RecipeError: The message names the key.
    """
    sourced = kind == "plain" and task == "SEQ_2_SEQ_LM"
    if kind == "judged" and data.loss_on == "all":
        allowed = "assistant or last: an objective judges answers, not prompts"
        raise RecipeError("data.loss_on", "'all' with judged answers", allowed, "remove data.loss_on")
    if data.max_prompt_length is not None and kind != "judged" and not sourced:
        allowed = "max_length alone: rows of this objective have no prompt apart from the rest"
        raise RecipeError("data.max_prompt_length", f"{data.max_prompt_length}", allowed, "remove it")
    if not data.share_prompts and kind != "judged":
        allowed = "true: rows of this objective have one answer each, and no prompt to share"
        raise RecipeError("data.share_prompts", "false", allowed, "remove it")
    if kind not in ("plain", "judged") or sourced:
        _not_written(data, "a source and its target" if sourced else "rows that are read, not written")
    if data.labels and kind not in LABELLED:
        allowed = "only rows of classification and token_classification have labels"
        raise RecipeError("data.labels", ", ".join(data.labels[:4]), allowed, "remove it")
    if len(set(data.labels)) < len(data.labels):
        twice = next(name for name in data.labels if data.labels.count(name) > 1)
        raise RecipeError("data.labels", f"{twice!r} twice", "each name once", "remove one of them")
    if kind in WINDOWED and data.truncation == "right" and data.doc_stride >= data.max_length:
        received = f"{data.doc_stride}, with data.max_length {data.max_length}"
        fix = f"lower it, as in data.doc_stride={data.max_length // 4}"
        raise RecipeError("data.doc_stride", received, "less: it is what two windows of max_length tokens share", fix)


def _not_written(data: Data, what: str) -> None:
    """Refuse the keys of conversations.

    Raises:
        RecipeError: The message names the key.
    """
    given = {
        "loss_on": None if data.loss_on == "assistant" else data.loss_on,
        "chat_template": None if data.chat_template == "auto" else data.chat_template,
        "system": data.system,
    }
    for key, value in given.items():
        if value is not None:
            allowed = f"only conversations have it; these are {what}"
            raise RecipeError(f"data.{key}", repr(value)[:60], allowed, f"remove data.{key}")
