# SPDX-License-Identifier: Apache-2.0
"""A trained task on the rows of a file: what the model says of each, and what that is worth."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError
from luthier.evaluate import answers, labels, tags, vectors, written
from luthier.evaluate.judged import TaskEvaluation
from luthier.evaluate.reader import Reader
from luthier.models.heads import task_of_model
from luthier.models.purpose import guessed, read_purpose

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.evaluate.judged import Prediction
    from luthier.evaluate.samples import Samples

MODULES: dict[str, Any] = {
    "SEQ_CLS": labels,
    "TOKEN_CLS": tags,
    "QUESTION_ANS": answers,
    "FEATURE_EXTRACTION": vectors,
    "SEQ_2_SEQ_LM": written,
}


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
