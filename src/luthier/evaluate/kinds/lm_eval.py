# SPDX-License-Identifier: Apache-2.0
"""A task or group of lm-evaluation-harness, its own or from your folder of task files; with the extra `eval`.

`{lm_eval: arc_easy}`, or with `include_path: my-tasks`. Prompts, filters and metrics are the task's; log-probabilities
and replies come from here. Tasks of a group are categories. What a task reads from the hub must be there: offline, give
a task file with `dataset_path: json` and `dataset_kwargs: {data_files: {test: FILE}}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import RecipeError, did_you_mean
from luthier.evaluate.items import Item, Said
from luthier.evaluate.judged import Judged
from luthier.evaluate.rows import Items, SuiteKeys
from luthier.evaluate.shares import of_list
from luthier.recipe.schema import NonNegative

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.tasks import RowKind
    from luthier.evaluate.prompts import Setting
    from luthier.evaluate.suite import Suite

MAIN = "task"


class Config(SuiteKeys):
    """Keys of the kind."""

    task: str
    """Name of a task or group."""
    include_path: str | None = None
    """A folder of task files, which are looked through first."""
    num_fewshot: NonNegative | None = None
    """Examples before each question; default the task's."""
    chat: bool = False
    """Ask in the model's chat template."""
    filter: str | None = None
    """Which of the task's filters is reported; default its first."""
    metric: str | None = None
    """What is reported first; default the task's first metric."""


@dataclass(frozen=True, kw_only=True)
class HarnessItem(Item):
    """A row of a task.

    Attributes:
        task: Its name.
        doc: The row's place there.
        content: Hash of the row.
    """

    task: str
    doc: int
    content: str


def read(keys: Config, where: str, limit: int | None, rows: RowKind | None) -> Items:  # noqa: ARG001 - any model
    """The rows of each task."""
    from luthier.evaluate.harness import doc_hash, load_tasks, task_manager

    tasks = load_tasks(task_manager(keys.include_path, keys.task, where), keys.task, keys.num_fewshot)
    first = {
        name: [str(one["metric"]) for one in task.config.metric_list or [{"metric": "acc"}]]
        for name, task in tasks.items()
    }
    shared = [name for name in next(iter(first.values())) if all(name in names for names in first.values())]
    if keys.metric is not None and keys.metric not in shared:
        raise RecipeError(
            f"{where}.metric", f"unknown metric {keys.metric!r}", did_you_mean(keys.metric, shared), "correct"
        )
    if not shared:
        raise RecipeError(where, f"tasks without a metric in common: {', '.join(tasks)}", "one", "name one task")
    metric = keys.metric or shared[0]
    items: list[HarnessItem] = []
    left = False
    for name, task in tasks.items():
        docs = list(task.eval_docs)
        left |= limit is not None and limit < len(docs)
        category = {"category": name} if len(tasks) > 1 else {}
        items += [
            HarnessItem(task=name, doc=place, content=doc_hash(doc), **category)
            for place, doc in enumerate(docs[:limit])
        ]
    rises = next(iter(tasks.values())).higher_is_better().get(metric, True)
    return Items(every=tuple(items), left=left, metric=metric, falls=not rises)


def ask(model: Any, tokenizer: Any, suite: Suite, setting: Setting) -> Said:
    """Let the harness ask."""
    from lm_eval import simple_evaluate

    from luthier.evaluate.harness import harness_model, load_tasks, task_manager
    from luthier.evaluate.scored import need_causal

    need_causal(model)
    keys: Config = suite.keys
    items: Sequence[HarnessItem] = suite.items  # type: ignore[assignment]  # as `read` made them
    manager = task_manager(keys.include_path, keys.task, f"suite {suite.name}")
    wanted: dict[str, list[int]] = {}
    for item in items:
        wanted.setdefault(item.task, []).append(item.doc)
    words: dict[str, Any] = {"num_fewshot": keys.num_fewshot, "apply_chat_template": keys.chat}
    words["system_instruction"] = setting.system if keys.chat else None
    ours = harness_model(model, tokenizer, setting, keys.chat)
    words |= {"task_manager": manager, "samples": wanted, "log_samples": True, "bootstrap_iters": 0}
    found = simple_evaluate(model=ours, tasks=[keys.task], **words)
    told = {
        (name, sample["doc_id"]): sample
        for name, samples in found["samples"].items()
        for sample in samples
        if sample["filter"] == (keys.filter or samples[0]["filter"])
    }
    kept = [_row(told[item.task, item.doc]) for item in items]
    task = next(iter(load_tasks(manager, keys.task, None).values()))
    return Said(rows=kept, notes={"filter": kept[0]["filter"]}, known=task.aggregation())


def _row(sample: dict[str, Any]) -> dict[str, Any]:
    values = {name: sample[name] for name in sample["metrics"]}
    target = sample["target"] if isinstance(sample["target"], int | float | str) else str(sample["target"])
    said = {"doc_id": sample["doc_id"], "target": target, "said": str(sample["filtered_resps"])[:1000]}
    return {**said, "filter": sample["filter"], "metrics": values}


def judge(keys: Config, items: Sequence[HarnessItem], said: Said) -> Judged:  # noqa: ARG001
    """As the task aggregates its metrics."""
    metrics: dict[str, float] = {}
    values = np.zeros(0)
    for name in said.rows[0]["metrics"]:
        each = [row["metrics"].get(name) for row in said.rows]
        aggregate = said.known.get(name)
        if aggregate is None or any(value is None for value in each):
            continue
        metrics[name] = float(aggregate(each))
        if name == keys.metric:
            plain = all(isinstance(value, bool | int | float | np.number) for value in each)
            numbers = np.array(each, np.float64) if plain else None
            is_mean = numbers is not None and abs(float(numbers.mean()) - metrics[name]) < 1e-9
            values = numbers if is_mean and numbers is not None else of_list(each, aggregate)
    return Judged(metric=str(keys.metric), metrics=metrics, values=values)
