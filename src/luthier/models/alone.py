# SPDX-License-Identifier: Apache-2.0
"""What transformers' own class says of each branch of a forest alone, one forward for each: what a forest must equal.

Models are in :func:`luthier.models.serving`, or on an attention of transformers; forests are without empty branches.
Results are float64 and have a gradient where the model has one.

Shapes: T tokens, N segments, S scored tokens, C values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from luthier.models.encoders import reads_both_ways, takes, tokens_of
from luthier.models.heads import task_of_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from luthier.kernels.forest import Forest


def separate_outputs(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """What :func:`luthier.models.outputs` should give, by the model's task."""
    task = task_of_model(model)
    if task == "CAUSAL_LM":
        return separate_logprobs(model, forest)
    return separate_values(model, forest) if task == "SEQ_CLS" else separate_tokens(model, forest)


def separate_logprobs(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """The scored log-probabilities, one forward for each branch from its root to its leaf.

    Args:
        model: A language model.
        forest: All tokens but the roots' first are scored.

    Returns:
        [S].
    """
    found: dict[int, torch.Tensor] = {}
    for chain in _leaves(forest):
        ids = _ids(forest, chain)
        logps = torch.log_softmax(_asked(model, forest, chain).logits[0].double(), -1)
        own = logps[:-1].gather(1, ids[1:, None])[:, 0]
        end = -1  # a token is predicted one position before it
        for segment in chain:
            start, end = end, end + forest.lengths()[segment]
            found[segment] = own[max(start, 0) : end]
    return torch.cat([found[segment] for segment in range(len(forest.parents))])


def separate_values(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """The values of each segment's branch.

    Returns:
        [N], or [N, C] where the head gives several values.
    """
    chains = [[*forest.ancestors(segment), segment] for segment in range(len(forest.parents))]
    values_NC = torch.stack([_asked(model, forest, chain).logits[0].double() for chain in chains])
    return values_NC[:, 0] if values_NC.shape[1] == 1 else values_NC


def separate_tokens(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """What the model says of each token: labels [T, C], starts and ends of a span [T, 2], or hidden states [T, H]."""
    found: dict[int, torch.Tensor] = {}
    for chain in _leaves(forest):
        whole, end = tokens_of(_asked(model, forest, chain)), 0
        for segment in chain:
            start, end = end, end + forest.lengths()[segment]
            found[segment] = whole[0, start:end].double()
    return torch.cat([found[segment] for segment in range(len(forest.parents))])


def _leaves(forest: Forest) -> list[list[int]]:
    """Each branch from its root to a leaf."""
    leaves = (segment for segment in range(len(forest.parents)) if segment not in forest.parents)
    return [[*forest.ancestors(leaf), leaf] for leaf in leaves]


def _ids(forest: Forest, chain: list[int]) -> torch.Tensor:
    return torch.cat([forest.input_ids[forest.starts[i] : forest.starts[i + 1]] for i in chain])


def _asked(model: PreTrainedModel, forest: Forest, chain: list[int]) -> Any:
    words: dict[str, Any] = {"input_ids": _ids(forest, chain)[None]}
    if not reads_both_ways(model):
        words["use_cache"] = False
    elif forest.type_ids is not None and takes(model.get_decoder(), "token_type_ids"):
        words["token_type_ids"] = torch.cat([forest.type_ids[forest.starts[i] : forest.starts[i + 1]] for i in chain])[
            None
        ]
    return model(**words)
