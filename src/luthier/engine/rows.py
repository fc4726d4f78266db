# SPDX-License-Identifier: Apache-2.0
"""What a run trains on: its rows as tokens, laid out as steps, with the tokenizer that made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.core import registry
from luthier.core.errors import RecipeError
from luthier.data import Batches, prepare
from luthier.data.mismatch import Mismatched
from luthier.engine.distributed import ALONE
from luthier.models import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from luthier.data import Prepared
    from luthier.data.ledger import Ledger
    from luthier.data.rows import Drawn
    from luthier.engine.distributed import Ranks
    from luthier.recipe import Recipe

    Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is trained on.

    Attributes:
        tokenizer: With the chat template that the rows were rendered with.
        train: The training rows and their ledger.
        held_out: Likewise those of `data.eval`.
        batches: The run's steps, or this rank's share of them; `batches.rows` is what they draw from.
        eval_rows: What is evaluated on.
        ranks: Who shares the steps.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Prepared
    held_out: Prepared | None
    batches: Batches
    eval_rows: Drawn | None
    ranks: Ranks = ALONE

    @property
    def ledgers(self) -> list[Ledger]:
        """What became of the rows that were read."""
        return [prepared.ledger for prepared in (self.train, self.held_out) if prepared]


def read_rows(recipe: Recipe, say: Say, ranks: Ranks = ALONE) -> Rows:
    """Read, render and check the data, and lay out the run's steps."""
    model = recipe.model
    tokenizer = load_tokenizer(model.model_name_or_path, model.model_revision, model.trust_remote_code)
    objective = registry.get("objectives", recipe.objective["name"])
    judged = bool(getattr(objective, "JUDGED", False))
    prepared = prepare(recipe.data, tokenizer, which="train", judged=judged, say=say)
    held_out = prepare(recipe.data, tokenizer, which="eval", judged=judged, say=say) if recipe.data.eval else None
    tokenizer.chat_template = prepared.chat_template or tokenizer.chat_template
    drawn: Drawn = prepared.rows
    eval_rows: Drawn | None = held_out.rows if held_out else None
    if getattr(objective, "MISMATCHED", False):
        drawn = Mismatched(prepared.rows, recipe.data.max_length)
        eval_rows = Mismatched(held_out.rows, recipe.data.max_length) if held_out else None
    batches = Batches(drawn, recipe.data, recipe.train, recipe.seed, rank=ranks.rank, world=ranks.world)
    if recipe.optim.warmup_steps > batches.total_steps:
        raise RecipeError(
            "optim.warmup_steps",
            f"{recipe.optim.warmup_steps} steps of {batches.total_steps}",
            "the warm-up is a part of the run",
            "lower it, or use optim.warmup_ratio",
        )
    return Rows(
        tokenizer=tokenizer, train=prepared, held_out=held_out, batches=batches, eval_rows=eval_rows, ranks=ranks
    )
