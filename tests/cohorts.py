# SPDX-License-Identifier: Apache-2.0
"""What tests of runs side by side share: members of a tiny model, and the same runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.tiny import tiny

from luthier.core.types import Segment, Tree
from luthier.engine.cohort import Member, fit_together
from luthier.engine.work import Work
from luthier.methods import lora
from luthier.models.draws import Draws
from luthier.models.planted import NAME
from luthier.models.side_by_side import SideBySide, member_of
from luthier.objectives import sft
from luthier.recipe import load_recipe


def trees(seed: int, step: int, micro_batches: int = 2) -> list[list[Tree]]:
    """The micro-batches of one step, of other lengths for each seed."""
    draw, found = np.random.default_rng([seed, step]), []
    for number in range(micro_batches):
        batch = []
        for row in range(2):
            length = int(draw.integers(4, 20))
            ids = draw.integers(3, 60, length).astype(np.int32)
            scored = np.arange(length) >= draw.integers(0, 3)
            batch.append(Tree(segments=(Segment(ids=ids, scored=scored),), row=f"rows:{seed}-{step}-{number}-{row}"))
        found.append(batch)
    return found


def work_on(base: Any, folder: Path, seed: int, method: dict[str, Any], **sections: Any) -> Work:
    """A run on a member of `base`, initialised from its seed."""
    keys = {"train": {"max_steps": 50} | sections.pop("train", {}), "optim": {"learning_rate": 1e-3}}
    recipe = load_recipe(
        {
            "model": {"model_name_or_path": "none"},
            "data": {"train": "none", "eval": "none"},
            "seed": seed,
            "output_dir": str(folder),
        }
        | {key: value | sections.pop(key, {}) for key, value in keys.items()}
        | {"method": {"name": "lora"} | method}
    ).recipe
    torch.manual_seed(seed)
    trainable = lora.apply(member_of(base), lora.Config(**method))
    return Work(
        recipe=recipe,
        trainable=trainable,
        objective=sft.Sft(sft.Config()),
        total_steps=recipe.train.max_steps,
        batches=lambda step: trees(seed, step),
        eval_batches=[trees(99, 0)[0]],
        folder=folder,
    )


def cohort(base: Any, folder: Path, configs: Sequence[dict[str, Any]], resume: bool = False, **given: Any):
    """Members of `base`, one for each configuration, and the trunk over them."""
    members = []
    for seed, config in enumerate(configs):
        work = work_on(base, folder / str(seed), seed, **(config | given))
        work.folder.mkdir(parents=True, exist_ok=True)
        members.append(Member(work=work, draws=Draws(), resume=resume))
    side = SideBySide(base, [member.work.trainable.model for member in members], [m.draws for m in members])
    return members, side


def together(members: Sequence[Member], side: SideBySide, most: int = 1000) -> dict[int, Any]:
    """Train them; what each ended with."""
    return dict(fit_together(members, side, most))


def base_of(family: str, dtype: torch.dtype) -> Any:
    """A tiny model that runs forests."""
    base = tiny(family).to(dtype)
    base.set_attn_implementation(NAME)
    return base
