# SPDX-License-Identifier: Apache-2.0
"""What a model was trained for, on rows whose truth is known: labels, tags, answers from contexts, vectors, targets.

Rows are read as training reads them. Texts with labels are judged by accuracy (F1, Matthews correlation), tagged words
by F1 of whole entities, questions by SQuAD's F1 and exact match, texts by rank correlation or retrieval, sources of
encoder-decoders by ROUGE-L and BLEU over all right targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.evaluate.items import Item, Said
from luthier.evaluate.rows import Items, OneSource, SuiteKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.tasks import RowKind
    from luthier.evaluate.judged import Judged
    from luthier.evaluate.prompts import Setting
    from luthier.evaluate.samples import Sample
    from luthier.evaluate.suite import Suite


class Config(SuiteKeys):
    """Keys of the kind."""

    data: OneSource
    """A file as in `data.eval` of the model's recipe: a path, or `{path: ..., format: ..., columns: {...}}`."""


@dataclass(frozen=True, kw_only=True)
class TaskItem(Item):
    """A row.

    Attributes:
        sample: With what is right.
    """

    sample: Sample


def read(keys: Config, where: str, limit: int | None, rows: RowKind | None) -> Items:  # noqa: ARG001 - data.path says
    """Rows of the kind that the model was trained on."""
    from luthier.evaluate.samples import read_samples

    found = read_samples(keys.data, rows, limit)
    items = tuple(TaskItem(sample=sample) for sample in found.every)
    return Items(every=items, left=found.left, refused=found.refused)


def ask(model: Any, tokenizer: Any, suite: Suite, setting: Setting) -> Said:
    """What the model says of each row."""
    from luthier.evaluate.trained import open_reader, predict

    reader = open_reader(model, tokenizer, setting.folder or Path(model.config.name_or_path or "."))
    predictions = predict(reader, [item.sample for item in suite.items])  # type: ignore[attr-defined]  # see `read`
    rows = [{name: value for name, value in row.items() if name != "vectors"} for row in predictions]
    return Said(rows=rows, known=(reader, predictions))


def judge(keys: Config, items: Sequence[TaskItem], said: Said) -> Judged:  # noqa: ARG001
    """By the task's own metrics."""
    from luthier.evaluate import trained

    reader, predictions = said.known
    return trained.judge(reader, [item.sample for item in items], predictions)
