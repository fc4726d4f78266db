# SPDX-License-Identifier: Apache-2.0
"""Optimisers, LoRA+ and learning rates of their own, as TRL, LLaMA-Factory and Axolotl write them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from luthier.recipe.dialects import _projected
from luthier.recipe.text import said

if TYPE_CHECKING:
    from luthier.recipe.dialects._draft import Draft

_SAME = "adamw adamw_torch adamw_torch_fused adamw_bnb_8bit adamw_8bit paged_adamw_8bit lion_8bit paged_lion_8bit"
OPTIMISERS = {name: name for name in (*_SAME.split(), "sgd", "adafactor")} | {
    "adamw_hf": "adamw",
    "paged_adamw": "adamw",
    "paged_adamw_32bit": "adamw",
    "lion_32bit": "lion",
    "paged_lion_32bit": "lion",
}
LORAPLUS = ("loraplus_lr_ratio", "loraplus_lr_embedding")
AXOLOTL = ("embedding_lr", "embedding_lr_scale", "lr_groups")


def optimiser(draft: Draft, key: str) -> None:
    """Read which optimiser; Lion has AdamW's betas in these tools, and its paper's here."""
    if "optim.optim" in draft.moved:
        return  # with GaLore or APOLLO, of which it is a part
    _projected.no_arguments(draft)
    draft.choose(key, "optim.optim", OPTIMISERS, "write adamw_torch")
    name = str(draft.given.get(key))
    if name in OPTIMISERS and name.startswith("paged_") and not name.endswith("8bit"):
        draft.note(f"{key} {name}: the same numbers as {OPTIMISERS[name]}; its states are not paged here")
    if name in OPTIMISERS and "lion" in name and not draft.has("adam_beta2"):
        draft.default("optim.adam_beta2", 0.999)


def loraplus(draft: Draft) -> None:
    """Read LoRA+'s keys, which stand for nothing without their ratio."""
    for key in LORAPLUS if draft.has("loraplus_lr_ratio") else ():
        if draft.has(key):
            draft.put(f"optim.{key}", draft.take(key), key)
    draft.ignore(*(key for key in LORAPLUS if key not in draft.taken))


def groups(draft: Draft) -> None:
    """Read Axolotl's `embedding_lr`, `embedding_lr_scale` and `lr_groups`; the embeddings' go before the others."""
    found: list[dict[str, Any]] = []
    given = draft.take("lr_groups", [])
    for group in given if isinstance(given, list) else [given]:
        modules = group.get("modules") if isinstance(group, dict) else None
        if not isinstance(modules, list) or not modules or set(group) - {"name", "modules", "lr"}:
            fix = "write lr_groups: [{name: NAME, modules: [q_proj], lr: 1.0e-5}]"
            draft.refuse("lr_groups", f"received {said(group)}", "name, modules and lr", fix)
            return draft.ignore("embedding_lr", "embedding_lr_scale")
        found.append({"parameters": _any_of(modules), "learning_rate": group.get("lr")})
    whole = draft.given.get("lora_modules_to_save")
    words = _any_of(["embed_tokens", "lm_head", *(whole if isinstance(whole, list) else [])])
    for key, ours in (("embedding_lr", "learning_rate"), ("embedding_lr_scale", "learning_rate_scale")):
        if draft.take(key) is not None:
            found.append({"parameters": words, ours: draft.take(key)})
    if found:
        draft.put("optim.groups", found, *(key for key in AXOLOTL if draft.has(key)))
    return draft.ignore(*(key for key in AXOLOTL if not draft.has(key)))


def _any_of(names: list[Any]) -> str:
    return "|".join(dict.fromkeys(re.escape(str(name)) for name in names))
