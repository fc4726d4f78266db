# SPDX-License-Identifier: Apache-2.0
"""One forward pass of a model that reads both ways (BERT, RoBERTa, ModernBERT ...): forest in, its task's output out.

Each segment with tokens is one whole text: every token of it sees every other. transformers' own class runs over all
of them at once, with its own head. A head that reads one vector of a text (`SEQ_CLS`) is handed them as if each text
were a row of a batch with one token: the first token's vector, or the mean where the configuration says so.

Shapes: T tokens, N segments, H hidden, C values.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from luthier.core.errors import ModelError
from luthier.models.heads import task_of_model
from luthier.models.planted import planted
from luthier.models.source_target import is_encoder_decoder
from luthier.models.tasks import is_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from luthier.kernels.forest import Forest
    from luthier.models.planted import Planted


def reads_both_ways(model: nn.Module) -> bool:
    """Whether a model is an encoder: its attention says that it is not causal, or its architecture that it is one."""
    if is_encoder_decoder(model):
        return False
    body: nn.Module = getattr(model, "get_decoder", lambda: model)()
    if any(getattr(module, "is_causal", True) is False for module in body.modules()):
        return True
    config = getattr(model, "config", None)
    return config is not None and is_encoder(config)


def first_position(body: nn.Module) -> int:
    """The position of a text's first token: behind that of padding in models of RoBERTa's kind, else 0."""
    table = position_table(body)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def position_table(body: nn.Module) -> nn.Embedding | None:
    """The table of positions that a model has learned, if it has one."""
    inside = getattr(body, "embeddings", None)
    for part in (body, *([inside] if isinstance(inside, nn.Module) else [])):
        for name, child in part.named_children():
            if isinstance(child, nn.Embedding) and ("pos" in name or name == "wpe"):
                return child
    return None


@lru_cache(maxsize=64)
def _arguments(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def takes(module: nn.Module, word: str) -> bool:
    """Whether the forward pass of a module's class takes an argument of this name."""
    kind: Any = type(module)
    return word in _arguments(kind)


def encoder_words(model: PreTrainedModel, forest: Forest) -> dict[str, Any]:
    """What an encoder is asked about a forest."""
    body = model.get_decoder()
    words: dict[str, Any] = {"input_ids": forest.input_ids[None]}
    if takes(body, "position_ids"):
        words["position_ids"] = forest.position_ids[None] + first_position(body)
    if takes(body, "token_type_ids"):  # its own default ends where the positions of one text end
        types = torch.zeros_like(forest.input_ids) if forest.type_ids is None else _known_types(model, forest.type_ids)
        words["token_type_ids"] = types[None]
    return words


def _known_types(model: PreTrainedModel, types: torch.Tensor) -> torch.Tensor:
    known = getattr(model.config, "type_vocab_size", None)
    if known is not None and (most := int(types.max())) >= known:
        received = f"token_type_ids up to {most}"
        fix = "give the tokenizer that belongs to the model"
        raise ModelError(f"model {type(model).__name__}", received, f"its config.json knows {known}, from 0", fix)
    return types


def encoder_outputs(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """What an encoder says of each segment or token.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, with any method applied.
        forest: The batch, on the model's device; short enough for the model's positions.

    Returns:
        SEQ_CLS: float32 [N], or [N, C] of several values; NaN of a segment without tokens. TOKEN_CLS: float32 [T, C].
        QUESTION_ANS: float32 [T, 2]. FEATURE_EXTRACTION: last hidden states [T, H].

    Raises:
        ModelError: A segment goes on from another one, which an encoder would have to read together with it.
    """
    lengths = forest.lengths()
    if any(parent >= 0 and lengths[parent] for parent in forest.parents):
        received = "a text with several continuations (judged answers share their prompt)"
        fix = "choose a decoder for such rows, or an objective with whole texts"
        raise ModelError(f"model {type(model).__name__}", received, "whole texts: it reads in both directions", fix)
    task = task_of_model(model)
    words = encoder_words(model, forest)
    pooled = nullcontext()
    with planted(forest) as now:
        if task == "SEQ_CLS":
            pooled = _one_vector_each(model, now, words)  # type: ignore[assignment]
        with pooled:
            output = model(**words)
    if task == "SEQ_CLS":
        values_NC = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
        if nothing := [segment for segment, length in enumerate(lengths) if not length]:
            values_NC = values_NC.index_fill(0, torch.tensor(nothing, device=values_NC.device), float("nan"))
        return values_NC[:, 0] if values_NC.shape[1] == 1 else values_NC
    return _of_tokens(output, task, now)


def token_outputs(model: PreTrainedModel, forest: Forest) -> torch.Tensor:
    """What a decoder says of each token (`TOKEN_CLS` [T, C], `QUESTION_ANS` [T, 2]): its own class, its own head."""
    task = task_of_model(model)
    words = {"input_ids": forest.input_ids[None], "position_ids": forest.position_ids[None], "use_cache": False}
    with planted(forest) as now:
        return _of_tokens(model(**words), task, now)


def tokens_of(output: Any) -> torch.Tensor:
    """What an output of transformers says of each token, [B, L, C], whatever it calls it."""
    if (found := getattr(output, "logits", None)) is None:
        starts = getattr(output, "start_logits", None)
        found = output.last_hidden_state if starts is None else torch.stack([starts, output.end_logits], -1)
    result: torch.Tensor = found
    return result


def _of_tokens(output: Any, task: str, now: Planted) -> torch.Tensor:
    found = tokens_of(output)[0]
    found = found if now.kept is None else found.index_select(0, now.kept)
    return found if task == "FEATURE_EXTRACTION" else found.to(torch.promote_types(found.dtype, torch.float32))


@contextmanager
def _one_vector_each(model: PreTrainedModel, now: Planted, words: dict[str, Any]) -> Iterator[None]:
    """Inside, the model's body gives [N, 1, H] instead of [1, T, H], and the vectors that its pooler makes of them."""
    mean = getattr(model.config, "classifier_pooling", "cls") == "mean"
    if mean:  # the head takes means over rows of this mask; each row has one token
        words["attention_mask"] = words["input_ids"].new_ones(1, 1)

    def regroup(body: Any, _: Any, output: Any) -> Any:
        seen = now.forest if now.prefix is not None else now.seen  # virtual keys have no hidden states
        hidden_TH = output.last_hidden_state[0]
        vectors = (_means(hidden_TH, seen) if mean else _firsts(hidden_TH, seen))[:, None]
        output.last_hidden_state = vectors
        pooler = getattr(body, "pooler", None)
        if hasattr(body, "pooler_activation"):  # ALBERT's pooler is a linear, its non-linearity stands beside it
            output.pooler_output = body.pooler_activation(pooler(vectors[:, 0])) if pooler is not None else None
        elif pooler is not None:
            output.pooler_output = pooler(vectors)
        return output

    hook = model.get_decoder().register_forward_hook(regroup)
    try:
        yield
    finally:
        hook.remove()


def _firsts(hidden_TH: torch.Tensor, forest: Forest) -> torch.Tensor:
    last = len(hidden_TH) - 1  # an empty segment at the end begins behind it
    index = [min(start, last) for start in forest.starts[:-1]]
    return hidden_TH.index_select(0, torch.tensor(index, device=hidden_TH.device))


def _means(hidden_TH: torch.Tensor, forest: Forest) -> torch.Tensor:
    lengths = torch.tensor(forest.lengths(), device=hidden_TH.device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=hidden_TH.device), lengths)
    sums = hidden_TH.new_zeros(len(lengths), hidden_TH.shape[1]).index_add(0, owner, hidden_TH)
    return sums / lengths.clamp_min(1)[:, None]
