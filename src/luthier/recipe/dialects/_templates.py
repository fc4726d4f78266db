# SPDX-License-Identifier: Apache-2.0
"""The names that LLaMA-Factory and Axolotl give to chat templates, and which of ours is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.recipe.text import said

if TYPE_CHECKING:
    from luthier.recipe.dialects._draft import Draft

SAME = {
    "alpaca": "alpaca",
    "auto": "auto",
    "chatml": "chatml",
    "chatml_de": "chatml",
    "gemma": "gemma",
    "gemma2": "gemma",
    "llama2": "llama2",
    "llama3": "llama3",
    "mistral": "mistral",
    "mistral_v1": "mistral",
    "phi": "phi3",
    "phi_3": "phi3",
    "phi_35": "phi3",
    "qwen": "chatml",
    "qwen_25": "chatml",
    "tokenizer_default": "auto",
    "vicuna": "vicuna",
    "zephyr": "zephyr",
}
_SYSTEM = {"qwen", "qwen_25", "chatml_de", "vicuna", "alpaca"}  # where the other tool may write a system prompt itself


def chat_template(draft: Draft, key: str) -> None:
    """Read a template's name. `auto` is allowed too: the model's own, which these names imitate."""
    name = draft.take(key)
    if name is None:
        return
    if name not in tuple(SAME):
        fix = f"write {key}=auto for the model's own template, or data.chat_template=FILE.jinja"
        draft.refuse(key, f"received {said(name)}", f"known: {', '.join(SAME)}", fix)
        return
    draft.put("data.chat_template", SAME[name], key)
    if name in _SYSTEM:
        draft.note(f"{key} {name}: no default system prompt of {draft.dialect} is added; data.system=… adds one")
