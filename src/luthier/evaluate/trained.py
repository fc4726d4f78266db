# SPDX-License-Identifier: Apache-2.0
"""A trained task on the rows of a file: what the model says of each, and what that is worth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError
from luthier.evaluate import answers, labels, tags, vectors, written
from luthier.evaluate.exact import Item
from luthier.evaluate.judged import TaskEvaluation
from luthier.evaluate.reader import Reader
from luthier.evaluate.samples import read_samples
from luthier.evaluate.suite import SHIPPED
from luthier.models.heads import task_of_model
from luthier.models.purpose import guessed, read_purpose
from luthier.recipe.schema import Source
from luthier.recipe.tasks import rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.core.tasks import Task
    from luthier.evaluate.judged import Prediction
    from luthier.evaluate.samples import Samples

MODULES: dict[str, Any] = {
    "SEQ_CLS": labels,
    "TOKEN_CLS": tags,
    "QUESTION_ANS": answers,
    "FEATURE_EXTRACTION": vectors,
    "SEQ_2_SEQ_LM": written,
}


@dataclass(frozen=True, kw_only=True)
class TaskSuite:
    """The rows of a file as a suite of a study: each run is judged on them by its task's own metric.

    Attributes:
        samples: The rows.
    """

    samples: Samples

    @property
    def name(self) -> str:
        """What results are filed under."""
        return self.samples.name

    @property
    def digest(self) -> str:
        """Short hash of the rows: results of other content are not comparable."""
        return self.samples.digest

    @property
    def items(self) -> tuple[Item, ...]:
        """One for each row; they have no categories."""
        return tuple(Item(messages=(), check="exact", answer=sample.name) for sample in self.samples.every)

    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> TaskEvaluation:
        """Judge a run's model.

        Args:
            model: With its method applied.
            tokenizer: Its tokenizer.
            folder: Of the run.
        """
        return evaluate_task(open_reader(model, tokenizer, folder), self.samples)


def load_task_suite(path: str, objective: str, task: Task, limit: int | None = None) -> TaskSuite | None:
    """Read a file of rows that say what is right, for models that an objective trained.

    Args:
        path: A file as in `data.eval`.
        objective: Its name.
        task: What they are for.
        limit: Only the first so many rows.

    Returns:
        None where the objective's models reply, or value answers: they are asked a suite of questions. So is an
        encoder-decoder where a shipped suite is named; files of others hold sources and their targets.

    Raises:
        DataError: There is no such file, or its rows are of another kind.
    """
    kind = rows_of(objective)
    writes = task == "SEQ_2_SEQ_LM" and path not in SHIPPED
    if kind == "judged" or (kind == "plain" and not writes):
        return None
    return TaskSuite(samples=read_samples(Source(path=path), kind, limit))


def open_reader(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Reader:
    """A loaded model with what it is for.

    Args:
        model: As :func:`luthier.load` gives it.
        tokenizer: Likewise.
        folder: What was loaded.

    Raises:
        ModelError: It writes words.
    """
    purpose = read_purpose(folder) or guessed(model, task_of_model(model), folder)
    if purpose.task != task_of_model(model):
        received = f"{type(model).__name__}, and a file that says {purpose.task}"
        raise ModelError(f"model {folder}", received, "a model of that task", "restore the folder")
    return Reader(model=model, tokenizer=tokenizer, purpose=purpose)


def predict(reader: Reader, samples: Samples) -> list[Prediction]:
    """What the model says of each row, as plain data.

    Raises:
        DataError: A row has no tokens.
    """
    found: list[Prediction] = MODULES[reader.purpose.task].predict(reader, samples.every)
    return found


def evaluate_task(reader: Reader, samples: Samples) -> TaskEvaluation:
    """Judge what the model says of rows whose truth is known.

    Raises:
        DataError: A row has no tokens.
    """
    begun = time.perf_counter()
    predictions = predict(reader, samples)
    judged = MODULES[reader.purpose.task].judge(reader, samples.every, predictions)
    for row in predictions:
        row.pop("vectors", None)
    return TaskEvaluation(
        suite=samples.name,
        digest=samples.digest,
        judged=judged,
        predictions=predictions,
        refused=samples.refused,
        seconds=time.perf_counter() - begun,
    )
