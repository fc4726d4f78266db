# SPDX-License-Identifier: Apache-2.0
"""Judged rows for tests of objectives: random trees, what a policy says of them, and a step as the engine takes it.

Rows of the other kinds are in `labelled.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tests.labelled import drawn, labels_for, rows_of_kind

from luthier.core import registry
from luthier.core.trainable import Gathering, Loss
from luthier.core.types import Segment, Tree
from luthier.engine.step import joined
from luthier.kernels.forest import Forest, plant
from luthier.recipe.tasks import rows_of, tasks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

# Every objective with its defaults, and what other choices its formula knows.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in registry.entries("objectives")),
    ("dpo", {"label_smoothing": 0.1, "beta": 0.3}),
    ("dpo", {"loss_type": "hinge"}),
    ("dpo", {"loss_type": "robust", "label_smoothing": 0.1}),
    ("dpo", {"loss_type": "exo_pair", "label_smoothing": 1e-3}),
    ("dpo", {"loss_type": "nca_pair"}),
    ("dpo", {"loss_type": "apo_zero"}),
    ("dpo", {"loss_type": "apo_down"}),
    ("dpo", {"loss_type": "sppo_hard"}),
    ("dpo", {"loss_type": "discopop", "beta": 0.05}),
    ("dpo", {"f_divergence_type": "forward_kl"}),
    ("dpo", {"f_divergence_type": "js_divergence", "loss_type": "hinge"}),
    ("dpo", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}),
    ("dpo", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0}),
    ("dpo", {"length_normalized": True, "beta": 2.0}),
    ("dpo", {"sft_weight": 0.5}),
    ("ipo", {"length_normalized": False, "beta": 0.4}),
    ("simpo", {"beta": 2.5, "simpo_gamma": 1.0, "label_smoothing": 0.1, "sft_weight": 0.2}),
    ("cpo", {"loss_type": "hinge", "cpo_alpha": 0.0}),
    ("cpo", {"label_smoothing": 0.2, "beta": 0.2}),
    ("orpo", {"beta": 0.5}),
    ("kto", {"desirable_weight": 1.3, "undesirable_weight": 0.7, "beta": 0.2}),
    ("kto", {"loss_type": "apo_zero_unpaired"}),
    ("reward", {"center_rewards_coefficient": 0.01}),
    ("reward", {"use_margin": False}),
    ("classification", {"class_weights": "balanced", "label_smoothing_factor": 0.1}),
    ("classification", {"class_weights": {"fair": 3.0, "good": 0.5}}),
    ("classification", {"problem_type": "multi_label_classification"}),
    ("classification", {"problem_type": "multi_label_classification", "class_weights": {"c": 2.0}}),
    ("classification", {"problem_type": "regression"}),
    ("token_classification", {"class_weights": "balanced", "label_smoothing_factor": 0.2}),
    ("question_answering", {"max_answer_length": 2}),
    ("contrastive", {"symmetric": True, "pooling": "cls"}),
    ("contrastive", {"normalize": False, "scale": 0.7, "pooling": "last"}),
    ("cosine", {"score_range": (0.0, 2.0), "pooling": "last"}),
    ("cosine", {"loss_type": "cosent", "scale": 3.0}),
]


def judged_tree(
    grades: Sequence[float],
    seed: int,
    *,
    scores: Sequence[float] = (),
    mismatched: int = 0,
    reference: bool = True,
) -> Tree:
    """A prompt of three tokens and answers of two to six, each known to the reference; then mismatched answers."""
    random = np.random.default_rng(seed)
    children = len(grades) + mismatched
    segments = [Segment(ids=random.integers(3, 60, 3).astype(np.int32), scored=np.zeros(3, bool))]
    if reference:
        segments[0] = replace(segments[0], reference=np.zeros(0, np.float32))
    for _ in range(children):
        length = int(random.integers(2, 7))
        said = random.normal(-1.5, 0.4, length).astype(np.float32) if reference else None
        ids = random.integers(3, 60, length).astype(np.int32)
        segments.append(Segment(ids=ids, scored=np.ones(length, bool), reference=said))
    nan = [math.nan]
    return Tree(
        segments=tuple(segments),
        parents=(-1, *[0] * children),
        grades=tuple(nan + list(grades) + nan * mismatched),
        scores=tuple([0.0, *scores, *[0.0] * mismatched]) if scores else (),
        row=f"rows.jsonl:{seed}",
    )


def rows_for(name: str, keys: dict[str, Any] | None = None) -> list[Tree]:
    """A step: pairs, a ranked list of three and one of four with a tie, two equal answers; labels for KTO."""
    if (kind := rows_of(name)) not in ("plain", "judged"):
        return rows_of_kind(kind, name, keys or {})
    if getattr(bound(name, {}), "mismatched", False):
        labels = [[1.0, 0.0], [1.0], [0.0], [0.0, 1.0], [1.0]]
        return [judged_tree(grades, seed, mismatched=1) for seed, grades in enumerate(labels)]
    return [
        judged_tree([1.0, 0.0], 0, scores=[8.5, 7.0]),
        judged_tree([1.0, 3.0, 2.0], 1, scores=[0.5, 2.0, 1.0]),
        judged_tree([0.0, 0.0], 2),
        judged_tree([2.0, 1.0, 2.0, 0.0], 3),
        judged_tree([0.0, 1.0], 4),
    ]


def said(
    name: str, trees: Sequence[Tree], dtype: torch.dtype = torch.float64, keys: dict[str, Any] | None = None
) -> list[torch.Tensor]:
    """What a policy near the reference says of each tree: of scored tokens, or what its task gives."""
    if rows_of(name) not in ("plain", "judged"):
        return drawn(name, trees, keys or {}, dtype)
    values = tasks_of(name)[0] == "SEQ_CLS"
    random = torch.Generator().manual_seed(11)
    found = []
    for tree in trees:
        count = len(tree.segments) if values else sum(int(segment.scored.sum()) for segment in tree.segments)
        normal = torch.randn(count, generator=random, dtype=torch.float64)
        found.append((normal if values else -1.4 + 0.4 * normal).to(dtype))
    return found


def taken(objective: Any, trees: Sequence[Tree], outputs: Sequence[torch.Tensor], split: Sequence[int]) -> list[Loss]:
    """The losses of a step's micro-batches, as the engine asks for them: what is gathered over the step comes first."""
    bounds = np.cumsum([0, *split])
    parts = [slice(a, b) for a, b in pairwise(bounds)]
    batches = [(plant(trees[part]), torch.cat(list(outputs[part]))) for part in parts]
    step: dict[str, torch.Tensor] = {}
    if isinstance(objective, Gathering):
        step = joined([objective.gather(values, forest) for forest, values in batches])
        assert not any(value.requires_grad for value in step.values())
    return [
        objective.loss(values, replace(forest, step=step, place=place))
        for place, (forest, values) in enumerate(batches)
    ]


def loss_of(objective: Any, trees: Sequence[Tree], outputs: Sequence[torch.Tensor]) -> Loss:
    """The loss of a step in one micro-batch."""
    return taken(objective, trees, outputs, [len(trees)])[0]


def bound(name: str, keys: dict[str, Any]) -> Any:
    """An objective with these keys."""
    module = registry.get("objectives", name)
    given = [labels_for(name, keys)] if getattr(module, "LABELLED", False) else []
    return module.bind(module.Config(**keys), *given)


def units_of(objective: Any, trees: Sequence[Tree]) -> int:
    """Units of a step."""
    forest: Forest = plant(list(trees))
    units: int = objective.units(forest)
    return units
