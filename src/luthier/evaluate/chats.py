# SPDX-License-Identifier: Apache-2.0
"""A conversation as the text that a model reads before its reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase


def rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], where: str) -> str:
    """Render turns with the chat template, up to where the reply begins.

    Args:
        tokenizer: With the template that the model was trained with.
        turns: Of role and content.
        where: The item, for messages.

    Raises:
        ModelError: There is no template.
        DataError: It cannot render them.
    """
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        raise ModelError("the tokenizer", "no chat template", "one, for chats", "write chat: false in the suite")
    try:
        text: Any = tokenizer.apply_chat_template(list(turns), add_generation_prompt=True, tokenize=False)
    except (TemplateError, KeyError, TypeError, ValueError) as error:
        raise DataError(where, f"the chat template refuses it ({error})", "turns that it takes") from error
    return str(text)
