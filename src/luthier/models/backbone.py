# SPDX-License-Identifier: Apache-2.0
"""One forward pass: forest in, log-probabilities of its scored tokens out.

The transformer runs through transformers' own modules; the head runs through `kernels.logprob` on scored rows only.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from luthier.core.errors import ModelError
from luthier.kernels.attention import visible
from luthier.kernels.logprob import HeadShape, linear_logits, linear_logprob
from luthier.models.encoders import encoder_words, first_position, position_table, reads_both_ways
from luthier.models.planted import NAME, planted
from luthier.models.virtual import num_virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from luthier.kernels.forest import Forest


# Tied ones of these shrink the last hidden states before the head by d_model**-0.5; T5's configuration says whether.
_SCALED = ("umt5", "switch_transformers")


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
    return head_logprobs(model, hidden_states(model, forest).index_select(0, forest.score_index), forest.score_target)


def head_logprobs(model: PreTrainedModel, hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Log-probability of each target after its hidden state.

    Args:
        model: Its head is used.
        hidden: After the final norm, [S, H].
        target: Token ids, int64 [S].

    Returns:
        float32 [S].
    """
    terms, bias = _head(model, hidden)
    return linear_logprob(terms, bias, target, head_shape(model.config))


def bare_head(model: PreTrainedModel) -> bool:
    """Whether a model's logits are one product and nothing else: no bias, no scale, no cap, no low-rank part."""
    head: Any = model.get_output_embeddings()
    biases = (getattr(head, "bias", None), getattr(model, "final_logits_bias", None))
    bare = not isinstance(head, LowRankHead) and all(bias is None for bias in biases)
    return bare and head_shape(model.config) == HeadShape()


def head_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """What follows each hidden state [S, H]: logits [S, V] in float32 (float64 of such a model)."""
    terms, bias = _head(model, hidden)
    return linear_logits(terms, bias, head_shape(model.config))


def hidden_states(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """Last hidden state of every token, after the final norm, [T, H].

    Raises:
        ModelError: A branch is longer than the model's positions.
    """
    decoder: Any = model.get_decoder()
    check_positions(model, forest)
    words = {"input_ids": forest.input_ids[None], "position_ids": forest.position_ids[None], "use_cache": False}
    if reads_both_ways(model):
        words = encoder_words(model, forest)
    if model.config._attn_implementation == NAME:
        with planted(forest):
            output = decoder(**words)
    else:
        output = decoder(**words, attention_mask=_dense_mask(forest, model.dtype))
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


def _dense_mask(forest: Forest, dtype: torch.dtype) -> torch.Tensor:
    """0 where a token sees another, the least number elsewhere, [1, 1, T, T]: for models with their own attention."""
    mask = torch.zeros(forest.num_tokens, forest.num_tokens, dtype=dtype)
    return mask.masked_fill_(~visible(forest), torch.finfo(dtype).min).to(forest.input_ids.device)[None, None]


def check_positions(model: PreTrainedModel, forest: Forest) -> None:
    """Refuse a branch that is longer than the model's positions.

    Raises:
        ModelError: There is one.
    """
    limit, why = last_position(model.config.get_text_config(), model.get_decoder())
    virtual = num_virtual(model)
    if limit is not None and forest.longest() + virtual > limit:
        besides = f" after {virtual} virtual ones" if virtual else ""
        raise ModelError(
            f"model {type(model).__name__}",
            f"an example of {forest.longest()} tokens{besides}",
            f"at most {limit}: {why}",
            f"set data.max_length to {limit - virtual} or less",
        )


def last_position(config: Any, decoder: torch.nn.Module) -> tuple[int | None, str]:
    """How long a branch may be, and why; None where nothing limits it."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]  # one for each kind of layer
    for rope in nested or [parameters]:
        kind = rope.get("rope_type", "default")
        if kind == "longrope" or "dynamic" in kind:
            limit = rope.get("original_max_position_embeddings") or config.max_position_embeddings
            return limit, f"beyond it {kind} turns all positions of a batch differently, also those of short examples"
    return learned_positions(decoder), "the model has learned no more positions"


def learned_positions(decoder: torch.nn.Module) -> int | None:
    """Positions in the table of a model that learned them (GPT-2, OPT, BERT), else None."""
    table = position_table(decoder)
    return None if table is None else table.num_embeddings - getattr(table, "offset", 0) - first_position(decoder)


def _head(model: PreTrainedModel, hidden: torch.Tensor) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], Any]:
    head: Any = model.get_output_embeddings()
    bias, own = getattr(head, "bias", None), getattr(model, "final_logits_bias", None)
    if own is not None and (own.is_cuda or bool(own.any())):  # BART's and its heirs'; zero in most checkpoints
        bias = own[0] if bias is None else bias + own[0]
    if isinstance(head, LowRankHead):
        return head.logit_terms(hidden), bias
    return [(hidden, head.weight)], bias


def head_shape(config: Any) -> HeadShape:
    """What the architecture does to its logits besides the product; read from its configuration."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = getattr(text, "logit_scale", None) or 1.0
    divisor = getattr(text, "logits_scaling", None) or 1.0
    if getattr(text, "scale_decoder_outputs", text.model_type in _SCALED and text.tie_word_embeddings):
        divisor *= text.d_model**0.5
    return HeadShape(scale=scale / divisor, softcap=getattr(text, "final_logit_softcapping", None))


@contextmanager
def serving(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Inside, the model generates with transformers' own attention, in evaluation mode, without gradients."""
    training, before = model.training, model.config._attn_implementation
    if before == NAME:
        model.set_attn_implementation(own_attention(model))
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train(training)
        if before == NAME:
            model.set_attn_implementation(NAME)


def own_attention(model: PreTrainedModel) -> str:
    """transformers' fastest attention that computes what the model says.

    Its `sdpa` leaves out the soft cap of the scores; transformers 5.17 chooses it for Gemma 2 all the same.
    """
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    return "sdpa" if getattr(model, "_supports_sdpa", False) and not capped else "eager"
