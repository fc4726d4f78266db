# SPDX-License-Identifier: Apache-2.0
"""How other tools ask for a quantised base, and what each of their keys is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.recipe.text import said

if TYPE_CHECKING:
    from luthier.recipe.dialects._draft import Draft

FOUR = ("nf4", "fp4")
LOADING = ("load_in_4bit", "load_in_8bit")


class Asked(NamedTuple):
    """What a recipe says of a 4-bit base.

    Attributes:
        kind: nf4 or fp4.
        kind_key: The key that says it.
        double: Whether the scales are quantised too.
        double_key: The key that says it.
    """

    kind: Any
    kind_key: str
    double: Any
    double_key: str


def put_four(draft: Draft, asked: Asked, *keys: str) -> None:
    """Ask for a 4-bit base.

    Args:
        draft: The translation in the making.
        asked: Which.
        keys: The foreign keys that ask for 4 bits.
    """
    if asked.kind not in FOUR:
        draft.refuse(asked.kind_key, f"received {said(asked.kind)}", ", ".join(FOUR), "write nf4")
        return
    draft.put("model.quantization", asked.kind, *keys, asked.kind_key)
    draft.put("model.bnb_4bit_use_double_quant", asked.double, asked.double_key)


def loading(draft: Draft, asked: Asked) -> None:
    """Read `load_in_4bit` and `load_in_8bit`, as TRL and Axolotl have them."""
    four, eight = (draft.take(key, False) for key in LOADING)
    if four and eight:
        draft.refuse("load_in_8bit", "true, beside load_in_4bit", "one of the two", "remove one")
    elif four:
        put_four(draft, asked, "load_in_4bit")
    elif eight:
        draft.put("model.quantization", "int8", "load_in_8bit")
    draft.ignore(*([] if four else ["load_in_4bit"]), *([] if eight else ["load_in_8bit"]))
