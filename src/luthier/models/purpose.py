# SPDX-License-Identifier: Apache-2.0
"""What a result is for, kept beside its weights: its objective's keys, its labels, and how its rows were cut.

transformers' config.json of a whole model holds the labels too, but an adapter's folder has no place for them, and
neither says how vectors are pooled or how many tokens an answer may have.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from luthier.core.errors import ModelError
from luthier.core.tasks import Labels, Problem, Task
from luthier.models.sentences import read_pooling, write_modules

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from luthier.recipe import Recipe

FILE = "luthier_task.json"
_OBJECTIVES: dict[Task, str] = {
    "SEQ_CLS": "classification",
    "TOKEN_CLS": "token_classification",
    "QUESTION_ANS": "question_answering",
    "FEATURE_EXTRACTION": "contrastive",
    "SEQ_2_SEQ_LM": "sft",
}


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What a model was trained to do.

    Attributes:
        task: What it gives.
        objective: Its objective's name and keys, as a resolved recipe holds them.
        labels: What it labels with; None where it does not.
        data: `max_length`, `doc_stride`, `truncation` and the like: how its rows were read.
    """

    task: Task
    objective: dict[str, Any]
    labels: Labels | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, model: PreTrainedModel | None = None) -> None:
        """Write it beside a result's weights.

        Args:
            folder: Theirs.
            model: Where the folder holds all of it; one of vectors is then one of sentence-transformers too.
        """
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        (folder / FILE).write_text(text, encoding="utf-8")
        if model is not None and self.task == "FEATURE_EXTRACTION":
            width = model.config.get_text_config().hidden_size
            write_modules(folder, self.objective, width=width, most=self.data.get("max_length"))


def purpose_of(recipe: Recipe, task: Task, labels: Labels | None) -> Purpose | None:
    """What a recipe's result is for; None of one that writes words or values of answers."""
    if _OBJECTIVES.get(task) is None or recipe.objective["name"] == "reward":
        return None
    kept = ("max_length", "doc_stride", "truncation")
    data = {name: value for name, value in recipe.data.model_dump(mode="json").items() if name in kept}
    return Purpose(task=task, objective=dict(recipe.objective), labels=labels, data=data)


def read_purpose(folder: Path) -> Purpose | None:
    """What a folder was trained for, None where it does not say.

    Args:
        folder: Of a run, an adapter or a model.

    Raises:
        ModelError: The file that says it cannot be read.
    """
    places = [folder, folder / "adapter", folder / "model"]
    file = next((place / FILE for place in places if (place / FILE).is_file()), None)
    if file is None:
        return None
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        told = tree.get("labels")
        labels = told and Labels(
            names=tuple(told["names"]),
            counts=tuple(told["counts"]),
            problem=told["problem"],
            fixed=told.get("fixed", False),
        )
        return Purpose(task=tree["task"], objective=tree["objective"], labels=labels, data=tree["data"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        where, allowed = f"task of {folder}", "what `luthier train` wrote"
        raise ModelError(where, f"{file.name} cannot be read ({error})", allowed, "restore the file") from None


def guessed(model: PreTrainedModel, task: Task, folder: Path) -> Purpose:
    """What a model that Luthier did not write is for: its configuration names labels, its folder may say the pooling.

    Args:
        model: Loaded for its task.
        task: That.
        folder: What the user named.

    Raises:
        ModelError: It predicts words, transformers' class for its task has no labels that can be read, or its vectors
            are pooled in a way that is unknown here.
    """
    if task not in _OBJECTIVES:
        allowed = "a model that labels texts or words, answers from a context, or gives vectors"
        raise ModelError(f"model {folder}", f"it is for {task}: it writes words", allowed, "use `luthier generate`")
    objective: dict[str, Any] = {"name": _OBJECTIVES[task]}
    if task == "FEATURE_EXTRACTION":
        objective["pooling"] = read_pooling(Path(folder))
    labels = labels_in(model.config) if task in ("SEQ_CLS", "TOKEN_CLS") else None
    return Purpose(task=task, objective=objective, labels=labels)


def labels_in(config: PretrainedConfig) -> Labels:
    """What transformers' configuration says of a head's labels."""
    names = config.id2label or {}
    told: Any = getattr(config, "problem_type", None)
    problem: Problem = told if told in get_args(Problem) else "single_label_classification"
    if told is None and config.num_labels == 1:
        problem = "regression"
    every = tuple(str(names.get(place, place)) for place in range(config.num_labels))
    return Labels(names=every, problem=problem, fixed=True)


def name_labels(config: PretrainedConfig, labels: Labels | None) -> None:
    """Write labels into a configuration, as transformers keeps them."""
    if labels is None:
        return
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: place for place, name in enumerate(labels.names)}
    config.problem_type = labels.problem
