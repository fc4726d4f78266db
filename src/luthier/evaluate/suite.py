# SPDX-License-Identifier: Apache-2.0
"""A suite: items of one kind, asked and judged as its kind says. Shipped ones have names, others are files.

A kind is a file of `evaluate/kinds`: it reads items, asks a model, and judges what was said as a pure function.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from luthier.core import registry
from luthier.core.errors import RecipeError
from luthier.evaluate.evaluation import Evaluation, places_by_category
from luthier.evaluate.judged import metric_of
from luthier.evaluate.named import KIND, ROWS, Named, named
from luthier.evaluate.prompts import Setting
from luthier.recipe.load import checked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.core.tasks import RowKind
    from luthier.evaluate.items import Item, Said
    from luthier.evaluate.judged import Judged
    from luthier.evaluate.named import Given
    from luthier.evaluate.rows import Items, SuiteKeys


PATHS = ("data", "fewshot", "include_path")  # keys that name files


class Kind(Protocol):
    """What a file of `evaluate/kinds` defines.

    `MAIN` is the key that a short mapping gives under the kind's name, `data` unless it is said.
    """

    Config: type[SuiteKeys]

    def read(self, keys: Any, where: str, limit: int | None, rows: RowKind | None) -> Items:
        """Read items: those of the first so many rows; `rows` is the kind that the model was trained on, if known."""

    def ask(self, model: Any, tokenizer: Any, suite: Suite, setting: Setting) -> Said:
        """What a model says to each item."""

    def judge(self, keys: Any, items: Sequence[Any], said: Said) -> Judged:
        """What that is worth, of all items or of some."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Items and where they came from.

    Attributes:
        name: What results are filed under.
        kind: The entry that reads, asks and judges.
        keys: What it was told.
        items: In the rows' order.
        digest: Short hash of items and keys: results of other content are not comparable.
        refused: What was wrong with rows that are left out -> how many.
    """

    name: str
    kind: str
    keys: Any
    items: tuple[Item, ...]
    digest: str
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def metric(self) -> str | None:
        """What is reported first; None where that depends on the model's task."""
        return getattr(self.keys, "metric", None)

    @property
    def compared(self) -> tuple[Item, ...]:
        """The items as studies compare them: without categories where the metric of some is no mean of theirs."""
        if metric_of(self.metric or "").is_mean:
            return self.items
        return tuple(replace(item, category="") for item in self.items)

    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, setting: Setting) -> Evaluation:
        """Ask a model and judge what it says."""
        begun, kind = time.perf_counter(), _kind(self.kind)
        said = kind.ask(model, tokenizer, self, setting)
        whole = kind.judge(self.keys, self.items, said)
        parts = {
            name: kind.judge(self.keys, [self.items[place] for place in places], said.of(places))
            for name, places in places_by_category(self.items).items()
        }
        seconds = time.perf_counter() - begun
        words: dict[str, Any] = {"parts": parts, "seconds": seconds, "notes": said.notes}
        return Evaluation(suite=self, judged=whole, rows=said.rows, **words)


def _kind(name: str) -> Kind:
    return cast("Kind", registry.get(KIND, name))


def load_suite(
    given: Given,
    limit: int | None = None,
    *,
    rows: RowKind | None = None,
    alone: str = ROWS,
    rising: bool = False,
) -> Suite:
    """Read a suite.

    Args:
        given: A name of `SHIPPED`, a file of rows, a YAML file or what such a file holds (`evaluate.named`).
        limit: Only the first so many items; the suite's name then says so.
        rows: The kind of rows that the model was trained on, where it is known: the kind `task` reads such.
        alone: The kind of a file of rows that is named alone.
        rising: For studies, where more is better: of a metric that falls (perplexity), take the one that says the same
            and rises.

    Raises:
        DataError: There is no such suite, or a row cannot be used.
        RecipeError: A key is unknown, or its value does not fit.
    """
    found = named(given, alone)
    kind = _kind(found.kind)
    keys = checked(kind.Config, _beside(found), found.where)
    if rising and (better := metric_of(getattr(keys, "metric", "")).rising):
        keys = keys.model_copy(update={"metric": better})
    items = kind.read(keys, found.where, limit, rows)
    if items.metric is not None:
        keys = keys.model_copy(update={"metric": items.metric})
    if rising and items.falls:
        allowed = "a metric that rises as models get better: a study says that more is better"
        raise RecipeError(f"{found.where}.metric", f"{items.metric} falls", allowed, "name another one with metric:")
    name, digest = found.name.replace("/", "-"), _digest(found.kind, keys, items.every)
    if items.left:
        name = f"{name}-first-{limit}"
    return Suite(name=name, kind=found.kind, keys=keys, items=items.every, digest=digest, refused=items.refused)


def _digest(kind: str, keys: SuiteKeys, items: Sequence[Item]) -> str:
    """Hash what scores depend on besides the model; where rows came from does not matter, they are in the items."""
    told = keys.model_dump(mode="json", exclude_defaults=True, exclude={"name", *PATHS})
    return hashlib.sha256(f"{kind}\n{json.dumps(told, sort_keys=True)}\n{items!r}".encode()).hexdigest()[:12]


def _beside(found: Named) -> dict[str, Any]:
    """Paths that are not there, but beside the suite's own file."""
    if found.folder is None:
        return found.keys
    return {key: _near(value, found.folder) if key in PATHS else value for key, value in found.keys.items()}


def _near(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {**value, "path": _near(value["path"], folder)} if "path" in value else value
    if isinstance(value, str) and not Path(value).expanduser().exists() and (folder / value).exists():
        return str(folder / value)
    return value


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: Suite,
    *,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    system: str | None = None,
    folder: Path | None = None,
) -> Evaluation:
    """Ask a model every item of a suite and judge what it says.

    Args:
        model: With its method applied, or plain.
        tokenizer: With the chat template that the model was trained with.
        suite: What to ask.
        batch_size: Items generated at a time.
        max_new_tokens: Longest reply, in the place of the suite's own.
        system: System prompt of items that have none (the recipe's `data.system`).
        folder: What was loaded, of a model that was trained for a task.
    """
    given: dict[str, Any] = {
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "system": system,
        "folder": folder,
    }
    setting = Setting(**{name: value for name, value in given.items() if value is not None})
    return suite.evaluate(model, tokenizer, setting)
