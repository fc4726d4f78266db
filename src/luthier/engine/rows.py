# SPDX-License-Identifier: Apache-2.0
"""What a run trains on: its rows as tokens, laid out as steps, with the tokenizer that made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.core.errors import RecipeError
from luthier.data import Batches, prepare
from luthier.models import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from luthier.data import Prepared
    from luthier.recipe import Recipe

    Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is trained on."""

    tokenizer: PreTrainedTokenizerBase
    train: Prepared
    held_out: Prepared | None
    batches: Batches


def read_rows(recipe: Recipe, say: Say) -> Rows:
    """Read, render and check the data, and lay out the run's steps."""
    model = recipe.model
    tokenizer = load_tokenizer(model.model_name_or_path, model.model_revision, model.trust_remote_code)
    prepared = prepare(recipe.data, tokenizer, which="train", say=say)
    held_out = prepare(recipe.data, tokenizer, which="eval", say=say) if recipe.data.eval else None
    tokenizer.chat_template = prepared.chat_template or tokenizer.chat_template
    batches = Batches(prepared.rows, recipe.data, recipe.train, recipe.seed)
    if recipe.optim.warmup_steps > batches.total_steps:
        raise RecipeError(
            "optim.warmup_steps",
            f"{recipe.optim.warmup_steps} steps of {batches.total_steps}",
            "the warm-up is a part of the run",
            "lower it, or use optim.warmup_ratio",
        )
    return Rows(tokenizer=tokenizer, train=prepared, held_out=held_out, batches=batches)
