# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness: its tasks, read from where they stand, and a model of ours that answers its requests.

Requests with one context become one tree, so a question is read once for all its choices; texts for perplexity and
replies go the ways that our own suites go.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import MissingExtra, RecipeError, did_you_mean
from luthier.core.types import Text
from luthier.evaluate.chats import rendered
from luthier.evaluate.continuations import Branch, plant_branches
from luthier.evaluate.prompts import cut

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.evaluate.prompts import Setting

MAX_NEW_TOKENS = 256  # of tasks that do not say it, as in lm-evaluation-harness


def task_manager(include_path: str | None, task: str, where: str) -> Any:
    """An index of tasks that holds the one that is wanted: of a folder, else of the package too.

    Raises:
        MissingExtra: The package is not installed.
        RecipeError: There is no such task or folder.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtra(where, "lm_eval", "eval") from None
    folder = Path(include_path).expanduser() if include_path is not None else None
    if folder is not None and not folder.is_dir():
        raise RecipeError(f"{where}.include_path", f"received {include_path!r}", "a folder of task files", "correct it")
    if folder is not None:
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if task in own.task_index:
            return own
    every = TaskManager(include_path=str(folder) if folder is not None else None)
    if task not in every.task_index:
        near = did_you_mean(task, every.task_index).partition("Known: ")[0].rstrip("? ")
        raise RecipeError(
            f"{where}.task", f"unknown task {task!r}", near or "a task of lm-evaluation-harness", "correct"
        )
    return every


def load_tasks(manager: Any, task: str, num_fewshot: int | None) -> dict[str, Any]:
    """Name -> task; several where a group was named."""
    tasks: dict[str, Any] = manager.load([task])["tasks"]
    if num_fewshot is not None:
        for one in tasks.values():
            one.set_config(key="num_fewshot", value=num_fewshot)
    return tasks


def doc_hash(doc: Mapping[str, Any]) -> str:
    """Short hash of an item's row."""
    return hashlib.sha256(json.dumps(doc, sort_keys=True, default=str).encode()).hexdigest()[:16]


def harness_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, setting: Setting, chat: bool) -> Any:
    """A model of ours as lm-evaluation-harness takes one.

    Args:
        model: Causal.
        tokenizer: Its tokenizer.
        setting: Of the call.
        chat: Contexts come from its chat template.
    """
    from lm_eval.api.model import LM

    class Ours(LM):
        """Answers requests on forests."""

        @property
        def tokenizer_name(self) -> str:
            """What requests may be kept under."""
            return str(tokenizer.name_or_path).replace("/", "__")

        def chat_template(self, _: Any = False) -> str:
            """The template, for the record."""
            return str(tokenizer.chat_template or "")

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:  # noqa: ARG002 - its protocol
            """Render a conversation."""
            return rendered(tokenizer, chat_history, "lm_eval")

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:  # noqa: ARG002 - its protocol
            """Log-probability of each continuation, and whether it is what the model would write."""
            return _loglikelihoods(model, tokenizer, [request.args for request in requests], chat)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002 - its protocol
            """Log-probability of each text."""
            return _whole_texts(model, tokenizer, [request.args[0] for request in requests])

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002 - its protocol
            """A reply to each context."""
            return _replies(model, tokenizer, [request.args for request in requests], setting, chat)

    return Ours()


def _loglikelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], chat: bool
) -> list[tuple[float, bool]]:
    from luthier.evaluate.scored import longest_branch, score_trees

    by_context: dict[str, list[int]] = {}
    for place, (context, _) in enumerate(pairs):
        by_context.setdefault(context, []).append(place)
    limit = longest_branch(model)
    trees = []
    for context, places in by_context.items():
        branches = [Branch(context=context, continuation=pairs[place][1]) for place in places]
        where = f"lm_eval, request {places[0] + 1}"
        trees.append(plant_branches(tokenizer, branches, where, templated=chat, limit=limit).tree)
    found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
    scored = score_trees(model, trees, likeliest=True)
    for places, (_, *scores) in zip(by_context.values(), scored, strict=True):
        for place, one in zip(places, scores, strict=True):
            found[place] = (one.total, bool(one.likeliest))
    return found


def _whole_texts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[float]:
    from luthier.evaluate.scored import score_trees
    from luthier.evaluate.windows import WindowKeys, lay_texts

    named = [(f"lm_eval, text {place}", Text(text=text)) for place, text in enumerate(texts, 1)]
    laid = lay_texts(model, tokenizer, WindowKeys(), named, None)
    totals = iter(scores[-1].total for scores in score_trees(model, [tree for one in laid for tree in one.trees]))
    return [sum(next(totals) for _ in one.trees) for one in laid]


def _replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[tuple[str, dict[str, Any]]],
    setting: Setting,
    chat: bool,
) -> list[str]:
    from luthier.models.generate import generate

    found = [""] * len(requests)
    kinds: dict[str, list[int]] = {}
    for place, (_, told) in enumerate(requests):
        kinds.setdefault(json.dumps(told, sort_keys=True), []).append(place)
    for key, places in kinds.items():
        told = json.loads(key)
        until = [told["until"]] if isinstance(told.get("until"), str) else list(told.get("until") or [])
        most = setting.max_new_tokens or told.get("max_gen_toks") or MAX_NEW_TOKENS
        warm = float(told.get("temperature") or 0.0) if told.get("do_sample") else 0.0
        prompts = [_without_bos(tokenizer, requests[place][0]) if chat else requests[place][0] for place in places]
        words: dict[str, Any] = {"max_new_tokens": most, "batch_size": setting.batch_size, "temperature": warm}
        texts = generate(model, tokenizer, prompts, raw=True, **words)
        for place, text in zip(places, texts, strict=True):
            found[place] = cut(tokenizer, text, until, most).text
    return found


def _without_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A rendered chat without the BOS that the tokenizer will put before it once more."""
    ids = tokenizer("x")["input_ids"]
    bos = tokenizer.bos_token
    return text.removeprefix(bos) if bos and ids and ids[0] == tokenizer.bos_token_id else text
