# SPDX-License-Identifier: Apache-2.0
"""The recipe's ``chat_template`` -> the Jinja text that renders conversations, and that is saved with the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core import registry
from luthier.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.data.vocabulary import Tokenizer, Vocabulary

KIND = "data.templates"


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A chat template, fitted to one tokenizer.

    Attributes:
        name: What messages call it.
        source: The Jinja text.
    """

    name: str
    source: str


def resolve(name: str, tokenizer: Tokenizer, vocabulary: Vocabulary, say: Callable[[str], None]) -> ChatTemplate | None:
    """Find the chat template that a recipe names.

    Args:
        name: ``auto``, a name of ``luthier templates``, the path of a Jinja file, or Jinja itself.
        tokenizer: Its own template is what ``auto`` means.
        vocabulary: Facts of the same tokenizer.
        say: Told where a named template had to be fitted to the tokenizer.

    Returns:
        None where ``auto`` finds none; rows that need one then raise :func:`no_template`.

    Raises:
        DataError: The file is not there, or the template needs tokens that the tokenizer has not.
        RecipeError: There is no template of this name.
    """
    if name == "auto":
        if not tokenizer.chat_template:
            return None
        return ChatTemplate(name="the tokenizer's chat template", source=tokenizer.get_chat_template())
    if "{%" in name or "{{" in name:
        return ChatTemplate(name="the recipe's chat template", source=name)
    if name.endswith((".jinja", ".jinja2", ".j2")) or "/" in name:
        try:
            return ChatTemplate(name=name, source=Path(name).expanduser().read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"data.chat_template {name!r}", f"cannot be read ({error})", "a UTF-8 Jinja file") from None
    entry = registry.get(KIND, name, "data.chat_template")
    return ChatTemplate(name=f"chat template {name}", source=_fitted(name, entry.TEMPLATE, entry.END, vocabulary, say))


def _fitted(name: str, source: str, end: str, vocabulary: Vocabulary, say: Callable[[str], None]) -> str:
    """Make a named template begin and end as this tokenizer needs it."""
    if vocabulary.adds_bos and "bos_token" not in source:
        source = "{{ bos_token }}" + source
    if end == "eos_token" or vocabulary.backend.token_to_id(end) is not None:
        if end == "eos_token" and vocabulary.eos is None:
            raise DataError(
                f"data.chat_template {name!r}", "the tokenizer has no eos_token to end a turn with", fix="set one"
            )
        return source
    if vocabulary.eos is None:
        raise DataError(
            f"data.chat_template {name!r}",
            f"neither {end!r} nor an eos_token is in the tokenizer's vocabulary",
            "a template that ends a turn with a token of the vocabulary",
            "choose another template, or add the token to the tokenizer",
        )
    eos = vocabulary.backend.id_to_token(vocabulary.eos)
    say(f"chat template {name}: {end} is not a token of this tokenizer; turns end with its eos_token {eos} instead")
    return re.sub(re.escape(end), lambda _: eos, source)


def no_template() -> DataError:
    """Make the error of conversations without a chat template."""
    return DataError(
        "data.chat_template",
        "the tokenizer has no chat template, and these rows are conversations",
        f"one of: {', '.join(registry.entries(KIND))}; or the path of a .jinja file",
        "name one in the recipe, as in chat_template: chatml",
    )
