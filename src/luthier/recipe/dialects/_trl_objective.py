# SPDX-License-Identifier: Apache-2.0
"""Which trainer of TRL a flat recipe is for, which of our objectives that is, and its keys.

An override tells it, then the key `trainer`, then keys that one trainer alone has, then the name of the folder or file
(as the alignment-handbook names them), then `beta` and its like, which mean DPO; else it is SFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.recipe.dialects import _objective
from luthier.recipe.text import said

if TYPE_CHECKING:
    from luthier.recipe.dialects._draft import Draft

PLAIN = {
    "beta": "beta",
    "label_smoothing": "label_smoothing",
    "f_divergence_type": "f_divergence_type",
    "f_alpha_divergence_coef": "f_alpha_divergence_coef",
    "discopop_tau": "discopop_tau",
    "rpo_alpha": "sft_weight",
    "ref_model": "reference",
    "ref_model_name_or_path": "reference",
    "precompute_ref_log_probs": "precompute_ref_log_probs",
    "desirable_weight": "desirable_weight",
    "undesirable_weight": "undesirable_weight",
    "simpo_gamma": "simpo_gamma",
    "center_rewards_coefficient": "center_rewards_coefficient",
}
KEYS = (*PLAIN, "cpo_alpha", "loss_type", "trainer")
ALONE = {  # keys of one trainer's config alone -> its objective
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
    "center_rewards_coefficient": "reward",
    "cpo_alpha": "cpo",
    "simpo_gamma": "cpo",
}
PAIRS = ("beta", "ref_model", "ref_model_name_or_path", "max_prompt_length", "precompute_ref_log_probs", "rpo_alpha")


def read(draft: Draft) -> str:
    """Tell the objective, set it and read its keys; return its name."""
    name, because = _trainer(draft)
    losses = draft.take("loss_type")
    loss = losses[0] if isinstance(losses, list) and len(losses) == 1 else losses
    if loss is not None and name in ("dpo", "cpo", "kto") and not (name == "dpo" and loss in _objective.LOSSES):
        name, loss = _other_loss(draft, name, loss)
    if loss is not None and "loss_type" in _objective.KEYS[name]:
        draft.put("objective.loss_type", loss, "loss_type")
    elif loss not in (None, "nll", name, "simpo"):
        draft.refuse("loss_type", f"received {said(loss)}", f"objective {name} has one loss", "remove it")
    elif loss is not None and name not in ("ipo", "simpo"):
        draft.ignore("loss_type")
    _objective.settle(draft, name, PLAIN, because)
    alpha = draft.take("cpo_alpha", 1.0 if name in ("cpo", "simpo") else None)
    if alpha is not None and name in ("cpo", "simpo"):
        draft.put({"cpo": "objective.cpo_alpha", "simpo": "objective.sft_weight"}[name], alpha, "cpo_alpha")
    elif alpha:
        draft.refuse("cpo_alpha", f"objective {name} has no such key", "cpo has it", "write trainer: cpo, or remove it")
    if name == "simpo":
        draft.default("objective.beta", 0.1)
    return name


def _trainer(draft: Draft) -> tuple[str, str]:
    """The trainer's objective and what told it."""
    trainer = draft.take("trainer")
    if name := _objective.overridden(draft):
        return name, "the command line says so"
    if trainer is not None:
        if trainer in tuple(_objective.KEYS):
            return str(trainer), "the key trainer"
        draft.refuse("trainer", f"received {said(trainer)}", f"known: {', '.join(_objective.KEYS)}", "choose one")
    for key, name in ALONE.items():
        if draft.has(key):
            return name, f"the key {key}"
    folder = _objective.of_folder(draft.asked.file)
    if folder not in (None, "sft"):
        return str(folder), "the name of the recipe's folder or file; objective=NAME chooses another"
    for key in (*PAIRS, "loss_type"):
        if draft.has(key) and draft.given[key] not in ("nll", "dft", False):
            told = " (the folder says sft)" if folder else ""
            return "dpo", f"the key {key}{told}; objective=orpo (ipo, kto, cpo, simpo …) chooses another"
    return "sft", "the folder's name" if folder else "no key of another trainer; objective=dpo (orpo, …) chooses one"


def _other_loss(draft: Draft, name: str, loss: Any) -> tuple[str, Any]:
    """A `loss_type` that is an objective of its own here, or none at all."""
    match name, loss:
        case "dpo", "ipo":
            draft.taken.add("loss_type")
            draft.note("loss_type ipo is the objective ipo")
            return "ipo", None
        case "dpo", "sigmoid_norm":
            draft.put("objective.length_normalized", True, "loss_type")
            return "dpo", "sigmoid"
        case "cpo", "simpo":
            draft.note("loss_type simpo is the objective simpo; its sft_weight is TRL's cpo_alpha")
            return "simpo", None
        case ("cpo", "sigmoid" | "hinge") | ("kto", "kto" | "apo_zero_unpaired"):
            return name, loss
    known = {"dpo": [*_objective.LOSSES, "ipo", "sigmoid_norm"], "cpo": ["sigmoid", "hinge", "simpo"]}
    allowed = ", ".join(known.get(name, ["kto", "apo_zero_unpaired"]))
    draft.refuse("loss_type", f"received {said(loss)}", f"allowed: {allowed}", "write one of these")
    return name, None
