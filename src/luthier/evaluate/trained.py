# SPDX-License-Identifier: Apache-2.0
"""A trained task: what its model says of rows, and what that is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError
from luthier.evaluate import answers, labels, tags, vectors, written
from luthier.evaluate.reader import Reader
from luthier.models.heads import task_of_model
from luthier.models.purpose import guessed, read_purpose

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.evaluate.judged import Judged, Prediction
    from luthier.evaluate.samples import Sample

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


def predict(reader: Reader, samples: Sequence[Sample]) -> list[Prediction]:
    """What the model says of each row, as plain data.

    Raises:
        DataError: A row has no tokens.
    """
    found: list[Prediction] = MODULES[reader.purpose.task].predict(reader, samples)
    return found


def judge(reader: Reader, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Judged:
    """What predictions for rows whose truth is known are worth.

    Raises:
        DataError: What a row says is right is of another kind than what the model says.
    """
    found: Judged = MODULES[reader.purpose.task].judge(reader, samples, predictions)
    return found
