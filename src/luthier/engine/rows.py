# SPDX-License-Identifier: Apache-2.0
"""What a run trains on: its rows as tokens, laid out as steps, with the tokenizer that made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core import registry
from luthier.core.errors import DataError, RecipeError
from luthier.core.trainable import Gathering
from luthier.data import Batches, prepare
from luthier.data.mismatch import Mismatched
from luthier.engine.distributed import ALONE
from luthier.kernels.forest import plant
from luthier.models import load_tokenizer
from luthier.models.load import load_config
from luthier.models.source_target import refuse_languages, settle_source_and_target
from luthier.recipe import entry_config
from luthier.recipe.tasks import rows_of, task_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from transformers import PreTrainedTokenizerBase

    from luthier.core.tasks import Labels
    from luthier.core.trainable import Objective
    from luthier.data import Prepared
    from luthier.data.ledger import Ledger
    from luthier.data.rows import Drawn
    from luthier.engine.distributed import Ranks
    from luthier.recipe import Recipe

    Say = Callable[[str], None]

KINDS = 64  # grades of a source that are looked at: more are scores, which say nothing that few of them do not


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

    @property
    def labels(self) -> Labels | None:
        """What the rows are labelled with, None of rows that are not; those of `data.eval` have the same ones."""
        return self.train.labels


def read_rows(recipe: Recipe, say: Say, ranks: Ranks = ALONE) -> Rows:
    """Read, render and check the data, and lay out the run's steps.

    Raises:
        UserError: The rows cannot be used, or a source has none that the objective learns from.
    """
    tokenizer = _tokenizer(recipe)
    train, drawn = _drawn(recipe, tokenizer, "train", say)
    held_out, eval_rows = _drawn(recipe, tokenizer, "eval", say, train.labels) if recipe.data.eval else (None, None)
    tokenizer.chat_template = train.chat_template or tokenizer.chat_template
    batches = Batches(drawn, recipe.data, recipe.train, recipe.seed, rank=ranks.rank, world=ranks.world)
    if recipe.optim.warmup_steps > batches.total_steps:
        raise RecipeError(
            "optim.warmup_steps",
            f"{recipe.optim.warmup_steps} steps of {batches.total_steps}",
            "the warm-up is a part of the run",
            "lower it, or use optim.warmup_ratio",
        )
    return Rows(tokenizer=tokenizer, train=train, held_out=held_out, batches=batches, eval_rows=eval_rows, ranks=ranks)


def read_batches(recipe: Recipe, say: Say) -> Batches:
    """The steps of a run alone, laid out as :func:`read_rows` does it.

    Raises:
        UserError: As there.
    """
    _, drawn = _drawn(recipe, _tokenizer(recipe), "train", say)
    return Batches(drawn, recipe.data, recipe.train, recipe.seed)


def bind(recipe: Recipe, labels: Labels | None = None) -> Objective:
    """The recipe's objective.

    Args:
        recipe: Checked.
        labels: What its rows are labelled with, where they are; without them the objective says no more than its kind.

    Raises:
        RecipeError: A key of the objective means nothing to such labels.
    """
    module = registry.get("objectives", recipe.objective["name"])
    given = (labels,) if getattr(module, "LABELLED", False) else ()
    objective: Objective = module.bind(entry_config("objective", recipe.objective), *given)
    return objective


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The model's tokenizer; whether the model is for the recipe's task at all is told before any row is read."""
    named = (recipe.model.model_name_or_path, recipe.model.model_revision, recipe.model.trust_remote_code)
    task, config = task_of(recipe), load_config(*named)
    if task == "SEQ_2_SEQ_LM" or config.is_encoder_decoder:
        settle_source_and_target(named[0], config, task)
    tokenizer = load_tokenizer(*named)
    if task == "SEQ_2_SEQ_LM":
        refuse_languages(tokenizer)
    return tokenizer


def _drawn(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    which: Literal["train", "eval"],
    say: Say,
    labels: Labels | None = None,
) -> tuple[Prepared, Drawn]:
    """The rows of `data.train` or `data.eval`, and what is drawn from them."""
    name, asked = recipe.objective["name"], recipe.objective.get("problem_type", "auto")
    told: dict[str, Any] = {"labels": labels, "problem": None if asked == "auto" else asked}
    told |= {"kind": rows_of(name), "task": task_of(recipe)}
    prepared = prepare(recipe.data, tokenizer, which=which, say=say, **told)
    objective = bind(recipe, prepared.labels)
    _prove_units(prepared, objective, name)
    if isinstance(objective, Gathering) and objective.mismatched:
        return prepared, Mismatched(prepared.rows, recipe.data.max_length, f"data.{which}")
    return prepared, prepared.rows


# What an objective may count nothing in, by the kind of its rows: what it counts, and what else such rows are for.
COUNTED = {
    "judged": (
        "rows of two answers or more with different grades: pairs, ranked lists",
        "single answers with a label are for objective kto; take it, or give rows of the other kind",
    ),
    "texts": (
        "for contrastive an anchor and its positive, for cosine two texts with a score",
        "rows with a score are for objective cosine, those without one for contrastive",
    ),
}
COUNTED_ELSE = ("rows that say what is true of them", "give rows with labels or answers")


def _prove_units(prepared: Prepared, objective: Objective, name: str) -> None:
    """Refuse a source in which the objective counts nothing: single answers, where it compares two.

    Raises:
        DataError: The message names the source. The objective raises it too, of a grade that means nothing to it.
    """
    rows = prepared.rows
    for place, account in enumerate(prepared.ledger.accounts):
        # One row of each grade at least, so that a grade without a meaning is told now and not in a later step.
        found = [objective.units(plant([rows.tree(row)])) for row in rows.first_of_grades(place)[:KINDS]]
        rest = range(int(rows.starts[place]), int(rows.starts[place + 1]))
        if any(found) or any(objective.units(plant([rows.tree(row)])) for row in rest):
            continue
        received = f"none of its {len(rest):,} rows counts for objective {name} (format {account.format})"
        allowed, fix = COUNTED.get(rows_of(name), COUNTED_ELSE)
        raise DataError(f"data.{prepared.ledger.which}: {account.source}", received, allowed, fix)
