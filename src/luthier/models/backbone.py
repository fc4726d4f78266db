# SPDX-License-Identifier: Apache-2.0
"""One forward pass: forest in, log-probabilities of its scored tokens out.

The transformer runs through transformers' own modules; the head runs through `kernels.logprob` on scored rows only.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from luthier.kernels.attention import NAME
from luthier.kernels.logprob import HeadShape, linear_logprob

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from luthier.kernels.forest import Forest


@runtime_checkable
class LowRankHead(Protocol):
    """A head that is a sum of products (an adapter on `lm_head`)."""

    def logit_terms(self, hidden: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The pairs (x, W) whose products add up to the logits."""


def scored_logprobs(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """Log-probability of each scored token.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, with any method applied.
        forest: The batch, on the model's device.

    Returns:
        float32 [S].
    """
    hidden = hidden_states(model, forest).index_select(0, forest.score_index)
    terms, bias = _head(model, hidden)
    return linear_logprob(terms, bias, forest.score_target, head_shape(model.config))


def hidden_states(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """Last hidden state of every token, after the final norm, [T, H]."""
    output = model.base_model(
        input_ids=forest.input_ids[None], position_ids=forest.position_ids[None], forest=forest, use_cache=False
    )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


def _head(model: PreTrainedModel, hidden: torch.Tensor) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], Any]:
    head: Any = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    if isinstance(head, LowRankHead):
        return head.logit_terms(hidden), bias
    return [(hidden, head.weight)], bias


def head_shape(config: Any) -> HeadShape:
    """What the architecture does to its logits besides the product; read from its configuration."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = getattr(text, "logit_scale", None) or 1.0
    divisor = getattr(text, "logits_scaling", None) or 1.0
    return HeadShape(scale=scale / divisor, softcap=getattr(text, "final_logit_softcapping", None))


@contextmanager
def serving(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Inside, the model generates with transformers' own attention, in evaluation mode, without gradients."""
    training, before = model.training, model.config._attn_implementation
    if before == NAME:
        model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train(training)
        if before == NAME:
            model.set_attn_implementation(NAME)
