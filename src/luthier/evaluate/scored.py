# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of the scored tokens of trees: forests of like lengths, a budget of tokens at a time.

Shapes: S scored tokens of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luthier.core.errors import ModelError
from luthier.kernels.forest import plant
from luthier.models import scored_logprobs
from luthier.models.backbone import head_logits, head_logprobs, hidden_states, last_position
from luthier.models.heads import task_of_model
from luthier.models.threads import fitting_threads
from luthier.models.virtual import num_virtual

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from luthier.core.types import Tree
    from luthier.kernels.forest import Forest

BUDGET = {"cpu": 2048, "cuda": 16384}  # tokens of a pass
_ROWS = 512  # scored tokens whose logits are held at a time, where the likeliest token is asked for


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model says of one segment's scored tokens.

    Attributes:
        logprobs: Of each, float64 [S].
        likeliest: Whether every one is the model's first choice; None where nobody asked.
    """

    logprobs: np.ndarray
    likeliest: bool | None = None

    @property
    def total(self) -> float:
        """Log-probability of the whole."""
        return float(self.logprobs.sum())


@torch.no_grad()
def score_trees(model: PreTrainedModel, trees: Sequence[Tree], *, likeliest: bool = False) -> list[list[Scores]]:
    """What a model says of the scored tokens of each segment of each tree.

    Args:
        model: A causal language model, with or without a method applied; left as it was.
        trees: In any order.
        likeliest: Ask for :attr:`Scores.likeliest` too, which takes the logits of every scored token.

    Raises:
        ModelError: The model does not read from left to right.
    """
    need_causal(model)
    found: list[list[Scores]] = [[] for _ in trees]
    training = model.training
    model.eval()
    try:
        with fitting_threads(model):
            for places in _passes(model, trees):
                forest = plant([trees[place] for place in places]).to(model.device)
                for place, scores in zip(places, _pass(model, forest, likeliest), strict=True):
                    found[place] = scores
    finally:
        model.train(training)
    return found


def need_causal(model: PreTrainedModel) -> None:
    """Refuse a model that gives no log-probability of a text from left to right.

    Raises:
        ModelError: It is one.
    """
    if (task := task_of_model(model)) != "CAUSAL_LM":
        allowed = "a causal language model: this suite asks for log-probabilities of texts"
        raise ModelError(f"model {type(model).__name__}", f"a model for {task}", allowed, "name another suite")


def longest_branch(model: PreTrainedModel) -> int | None:
    """Tokens that a branch may have; None where nothing limits it."""
    config = model.config.get_text_config()
    known = [last_position(config, model.get_decoder())[0], getattr(config, "max_position_embeddings", None)]
    limits = [limit for limit in known if isinstance(limit, int)]
    return min(limits) - num_virtual(model) if limits else None


def _passes(model: PreTrainedModel, trees: Sequence[Tree]) -> Iterator[list[int]]:
    """Places of trees that are read together, the longest first: what does not fit into memory fails at once."""
    order = sorted(range(len(trees)), key=lambda place: -len(trees[place]))
    budget = BUDGET.get(model.device.type, BUDGET["cpu"])
    some: list[int] = []
    held = 0
    for place in order:
        if some and held + len(trees[place]) > budget:
            yield some
            some, held = [], 0
        some.append(place)
        held += len(trees[place])
    if some:
        yield some


def _pass(model: PreTrainedModel, forest: Forest, likeliest: bool) -> list[list[Scores]]:
    if likeliest:
        hidden = hidden_states(model, forest).index_select(0, forest.score_index)
        logprobs, first = head_logprobs(model, hidden, forest.score_target), _first_choices(model, hidden)
        right = (first == forest.score_target).cpu().numpy()
    else:
        logprobs, right = scored_logprobs(model, forest), None
    values = logprobs.double().cpu().numpy()
    owners = forest.score_segment.cpu().numpy()
    bounds = np.searchsorted(owners, np.arange(len(forest.parents) + 1))
    found: list[list[Scores]] = [[] for _ in forest.rows]
    for segment, tree in enumerate(forest.trees):
        part: Any = slice(bounds[segment], bounds[segment + 1])
        whole = None if right is None else bool(right[part].all())
        found[tree].append(Scores(logprobs=values[part], likeliest=whole))
    return found


def _first_choices(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    return torch.cat([head_logits(model, some).argmax(dim=-1) for some in hidden.split(_ROWS)])
