# SPDX-License-Identifier: Apache-2.0
"""A trained model reads examples: the trees it was trained on, laid into forests, and what it says of each.

Shapes: L tokens of a tree, N of its segments, C classes, H hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luthier.core import registry
from luthier.core.errors import DataError
from luthier.core.tasks import Labelled, Question, Tagged, Texts
from luthier.core.types import Segment, Tree
from luthier.data.encoded import Encoded
from luthier.data.faults import RowFault
from luthier.data.fill import kind_of_rows
from luthier.data.labelling import Numbers
from luthier.data.originals import window_of
from luthier.data.prepare import open_context
from luthier.kernels.forest import plant
from luthier.kernels.pooling import pooled
from luthier.models import outputs
from luthier.models.heads import task_of_model
from luthier.recipe import entry_config
from luthier.recipe.schema import Data, Source
from luthier.recipe.tasks import rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.core.tasks import Labels, RowKind
    from luthier.data.fill import AnyExample, Context
    from luthier.data.originals import Window
    from luthier.data.store import Row
    from luthier.models.purpose import Purpose

    Floats = np.ndarray

BUDGET = {"cpu": 2048, "cuda": 16384}  # tokens of a pass


@dataclass(frozen=True, kw_only=True)
class Laid:
    """The trees of one example.

    Attributes:
        trees: One, or one for each window.
        windows: What the tokens of each stand for, where that is asked for.
    """

    trees: tuple[Tree, ...]
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A model that was trained for a task, ready to read.

    Attributes:
        model: With its method applied, on its device.
        tokenizer: Its tokenizer.
        purpose: What it was trained for.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    purpose: Purpose

    @property
    def kind(self) -> RowKind:
        """The kind of rows that it reads."""
        return rows_of(self.purpose.objective["name"])

    @cached_property
    def config(self) -> Any:
        """Its objective's keys."""
        return entry_config("objective", self.purpose.objective)

    @cached_property
    def objective(self) -> Any:
        """Its objective, bound."""
        module = registry.get("objectives", self.purpose.objective["name"])
        plain = (
            self.config.model_copy(update={"class_weights": "none"}) if hasattr(self.config, "class_weights") else None
        )
        given = (self.purpose.labels,) if getattr(module, "LABELLED", False) else ()
        return module.bind(plain or self.config, *given)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its labels."""
        return self.purpose.labels.names if self.purpose.labels else ()

    @cached_property
    def _context(self) -> Context:
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        keys: dict[str, Any] = {"max_length": min(512, positions or 512)} | self.purpose.data
        data = Data(train=(Source(path="-"),), **keys)
        context = open_context(data, self.tokenizer, lambda _: None, self.purpose.task)
        return replace(context, numbers=Numbers(self.purpose.labels)) if self.purpose.labels else context

    def lay(self, names: Sequence[str], examples: Sequence[AnyExample]) -> list[Laid]:
        """Make the trees of examples, whatever is known to be right of them.

        Args:
            names: Of the rows, for messages.
            examples: Of the kind that the model reads.

        Raises:
            DataError: An example has no tokens.
        """
        bare = [_bare(example, self.purpose.labels) for example in examples]
        _, kind = kind_of_rows(self.kind, self.purpose.task)
        items = kind.tokens(self._context, kind.texts(self._context, bare))
        rows = kind.rows(self._context, bare, items)
        each = items if self.kind != "texts" else [None] * len(rows)
        laid = []
        for name, example, item, made in zip(names, bare, each, rows, strict=True):
            if isinstance(made, RowFault):
                raise DataError(name, str(made), "a text that the model can read", "leave it out")
            windows: tuple[Window, ...] = ()
            if self.kind in ("tagged", "question") and isinstance(item, Encoded):
                windows = tuple(window_of(example, item, row) for row in made)
            laid.append(Laid(trees=tuple(self._tree(row, name) for row in made), windows=windows))
        return laid

    def _tree(self, row: Row, name: str) -> Tree:
        if row.answers is not None:
            ends = np.cumsum([len(row.ids) - sum(row.answers), *row.answers])
            bounds = zip((0, *ends[:-1]), ends, strict=True)
            segments = tuple(Segment(ids=row.ids[a:b], scored=row.scored[a:b]) for a, b in bounds)
            return Tree(segments=segments, parents=(-1, *[0] * len(row.answers)), row=name)
        tells = self._context.vocabulary.tells_types
        segment = Segment(ids=row.ids, scored=row.scored, labels=row.labels, types=row.types if tells else None)
        return Tree(segments=(segment,), row=name)

    @torch.no_grad()
    def read(self, laid: Sequence[Laid]) -> list[list[Floats]]:
        """What the model says of each tree of each example, float32.

        Returns:
            SEQ_CLS: [C]. TOKEN_CLS: [L, C]. QUESTION_ANS: [L, 2]. FEATURE_EXTRACTION: a vector for each text, [N, H].
        """
        trees = [(place, number) for place, one in enumerate(laid) for number in range(len(one.trees))]
        trees.sort(key=lambda at: len(laid[at[0]].trees[at[1]]))  # texts of like lengths together: no matter of results
        found: list[list[Any]] = [[None] * len(one.trees) for one in laid]
        budget = BUDGET.get(self.model.device.type, BUDGET["cpu"])
        was_training = self.model.training
        self.model.eval()
        try:
            while trees:
                some, held = 0, 0
                while some < len(trees) and (not some or held + len(_at(laid, trees[some])) <= budget):
                    held += len(_at(laid, trees[some]))
                    some += 1
                batch, trees = trees[:some], trees[some:]
                for (place, number), said in zip(batch, self._said([_at(laid, at) for at in batch]), strict=True):
                    found[place][number] = said
        finally:
            self.model.train(was_training)
        return found

    def _said(self, trees: list[Tree]) -> list[Floats]:
        forest = plant(trees).to(self.model.device)
        said, task = outputs(self.model, forest), task_of_model(self.model)
        if task == "FEATURE_EXTRACTION":
            normalize = getattr(self.config, "normalize", True)
            said = pooled(said, forest, self.config.pooling, normalize=normalize)
        values = said.float().cpu().numpy()
        if task == "SEQ_CLS":
            return [row.reshape(-1) for row in values]  # a tree is one segment
        if task == "FEATURE_EXTRACTION":
            owners = np.array(forest.trees)
            texts = np.array(forest.parents) >= 0
            return [values[(owners == tree) & texts] for tree in range(len(trees))]
        return [values[a:b] for a, b in zip(forest.starts[:-1], forest.starts[1:], strict=True)]


def _at(laid: Sequence[Laid], at: tuple[int, int]) -> Tree:
    return laid[at[0]].trees[at[1]]


def _bare(example: AnyExample, labels: Labels | None) -> AnyExample:
    """The example with labels that its model knows: trees are the same whatever is right."""
    if isinstance(example, Labelled):
        one = (labels.names[0],) if labels else ()
        known = {"regression": (0.0,) * (len(labels) if labels else 0), "multi_label_classification": ()}
        return replace(example, labels=known.get(labels.problem if labels else "", one))
    if isinstance(example, Tagged):
        return replace(example, tags=(labels.names[0] if labels else "",) * len(example.words))
    if isinstance(example, Texts):
        return replace(example, grades=(math.nan,) * len(example.texts), score=None)
    return replace(example, answers=(), starts=()) if isinstance(example, Question) else example
