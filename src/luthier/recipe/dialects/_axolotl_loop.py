# SPDX-License-Identifier: Apache-2.0
"""Axolotl's loop: optimiser, warm-up, trackers, and how often something is logged, evaluated and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.recipe.dialects import _optim, _projected, _training

if TYPE_CHECKING:
    from luthier.recipe.dialects._draft import Draft

KEYS = (
    *_optim.AXOLOTL,
    *_projected.ARGUMENTS,
    "eval_steps",
    "eval_strategy",
    "evals_per_epoch",
    "gradient_checkpointing",
    "logging_steps",
    "lr_scheduler",
    "optimizer",
    "save_steps",
    "save_strategy",
    "saves_per_epoch",
    "use_tensorboard",
    "wandb_mode",
    "wandb_project",
    "warmup_ratio",
    "warmup_steps",
)


def read(draft: Draft) -> None:
    """Read optimiser, shape, trackers, and how often something is logged, evaluated and saved."""
    _training.warm_up(draft, None)  # Axolotl's default is ours: 0.03 of the steps
    _optim.optimiser(draft, "optimizer")
    _optim.groups(draft)
    draft.choose("lr_scheduler", "optim.lr_scheduler_type", _training.SHAPES, "write cosine")
    trackers = ["wandb"] if draft.take("wandb_project") and draft.take("wandb_mode") != "disabled" else []
    trackers += ["tensorboard"] if draft.take("use_tensorboard") else []
    if trackers:
        draft.put("train.report_to", trackers, "wandb_project", "use_tensorboard")
        draft.note(
            "report_to: " + ", ".join(trackers) + "; its project and names are set by the tracker's own variables"
        )
    draft.ignore(*(key for key in ("wandb_project", "wandb_mode", "use_tensorboard") if not draft.given.get(key)))
    if str(draft.given.get("gradient_checkpointing")) in ("unsloth", "offload"):
        draft.put("train.gradient_checkpointing", "offload", "gradient_checkpointing")
    elif draft.has("gradient_checkpointing"):
        draft.put("train.gradient_checkpointing", draft.take("gradient_checkpointing"), "gradient_checkpointing")
    for key, steps, what in (
        ("evals_per_epoch", "eval_steps", "evaluated"),
        ("saves_per_epoch", "save_steps", "saved"),
    ):
        if draft.take(key) and not draft.has(steps):
            draft.note(f"{key}: {what} at the end only; `{steps}: 100` does it more often")
        draft.ignore(key)
    _training.logging(draft)
    _training.saving(draft)
    if draft.has("hub_model_id"):  # its name alone has Axolotl upload there, into a private repository
        draft.put("train.push_to_hub", True, "hub_model_id")
        draft.put("train.hub_model_id", draft.take("hub_model_id"), "hub_model_id")
        draft.put("train.hub_private_repo", True, "hub_model_id")
    if draft.has("eval_steps") and not draft.has("eval_strategy"):
        steps = draft.take("eval_steps")
        if "eval" in draft.tree.get("data", {}):
            draft.put("train.eval_steps", steps, "eval_steps")
        else:
            draft.ignore("eval_steps")
    elif draft.has("eval_strategy"):
        _training.evaluation(draft)
