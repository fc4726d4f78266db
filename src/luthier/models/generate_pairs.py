# SPDX-License-Identifier: Apache-2.0
"""Sources -> targets by an encoder-decoder: no chat template, right padding, batches of like lengths, stops at the end.

Each source is encoded once; the decoder begins with what the model's configuration says and goes on with its cache.

Shapes: B sources of a batch, L longest of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from luthier.core.errors import DataError, ModelError
from luthier.models.backbone import learned_positions, serving
from luthier.models.sampling import Draw, generator
from luthier.models.source_target import refuse_languages
from luthier.models.threads import fitting_threads
from luthier.models.virtual import num_virtual, virtual_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How targets are written; see :func:`luthier.models.generate.generate`."""

    max_new_tokens: int
    batch_size: int
    temperature: float
    top_p: float
    seed: int


def encode_sources(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | Sequence[Mapping[str, str]]], most: int | None = None
) -> list[list[int]]:
    """Sources as tokens, with the special tokens of the tokenizer, as in training.

    Args:
        tokenizer: The model's.
        prompts: Strings, or conversations of one user turn, in front of which a system prompt may stand.
        most: Cut longer ones at their end to so many tokens, special ones included.

    Raises:
        DataError: A source is empty, or a conversation has several turns.
        ModelError: The tokenizer marks languages.
    """
    refuse_languages(tokenizer)
    found = []
    for number, prompt in enumerate(prompts, 1):
        text = prompt if isinstance(prompt, str) else _source(prompt, number)
        if not text.strip():
            raise DataError(f"prompt {number}", "no text", "a source to read", "write something")
        found.append(list(tokenizer(text, truncation=most is not None, max_length=most)["input_ids"]))
    return found


def _source(turns: Sequence[Mapping[str, str]], number: int) -> str:
    """What training reads of a conversation: the system prompt and the question, a line each."""
    if [turn["role"] for turn in turns if turn["role"] != "system"] != ["user"]:
        allowed = "one user turn: an encoder-decoder reads one source"
        raise DataError(f"prompt {number}", f"a conversation of {len(turns)} turns", allowed, "give its last question")
    return "\n".join(turn["content"] for turn in turns)


def write_targets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    stops: Sequence[int],
    asked: Asked,
) -> list[str]:
    """Write the target of each source.

    Args:
        model: An encoder-decoder, with or without a method applied; left as it was.
        tokenizer: Its tokenizer.
        sources: Token ids.
        stops: Tokens that end a target.
        asked: How.

    Returns:
        The targets in the sources' order, without special tokens.

    Raises:
        ModelError: A source, or a target of that length, is longer than the model's positions.
    """
    _check_positions(model, max(map(len, sources), default=0), asked.max_new_tokens)
    targets = [""] * len(sources)
    order = sorted(range(len(sources)), key=lambda number: -len(sources[number]))
    with serving(model), fitting_threads(model):
        for first in range(0, len(order), asked.batch_size):
            numbers = order[first : first + asked.batch_size]
            draw = None
            if asked.temperature > 0:
                drawn = [generator(asked.seed, number, model.device) for number in numbers]
                draw = Draw(asked.temperature, asked.top_p, drawn)
            rows = _batch(model, [sources[number] for number in numbers], asked.max_new_tokens, stops, draw)
            for number, row in zip(numbers, rows, strict=True):
                targets[number] = str(tokenizer.decode(row, skip_special_tokens=True))
    return targets


def _batch(
    model: PreTrainedModel, sources: list[Sequence[int]], max_new_tokens: int, stops: Sequence[int], draw: Draw | None
) -> list[list[int]]:
    """Ids of each target up to its stop."""
    longest, padding = max(map(len, sources)), getattr(model.config, "pad_token_id", None) or 0
    ids_BL = [[*source, *[padding] * (longest - len(source))] for source in sources]
    mask_BL = [[1] * len(source) + [0] * (longest - len(source)) for source in sources]
    words: dict[str, Any] = {"eos_token_id": list(stops) or None, "pad_token_id": padding, "use_cache": True}
    own = model.generation_config
    for key in ("decoder_start_token_id", "forced_bos_token_id"):  # what every target begins with, in training too
        words[key] = next((v for o in (own, model.config) if (v := getattr(o, key, None)) is not None), None)
    # Fields that are not set here would come from the checkpoint's own settings (beams, penalties, a shortest length).
    model.generation_config = GenerationConfig()
    try:
        out = model.generate(
            input_ids=torch.tensor(ids_BL, device=model.device),
            attention_mask=torch.tensor(mask_BL, device=model.device),
            generation_config=GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, **words),
            logits_processor=LogitsProcessorList([draw] if draw else []),
        )
    finally:
        model.generation_config = own
    rows: list[list[int]] = out[:, 1:].tolist()
    ends = [next((place for place, token in enumerate(row) if token in stops), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def _check_positions(model: PreTrainedModel, source: int, target: int) -> None:
    found = virtual_of(model)
    in_source = found is not None and found.heads is None
    sides = (("source", model.get_encoder(), source), ("target", model.get_decoder(), target))
    for side, stack, length in sides:
        limit = learned_positions(stack)
        wanted = length + (num_virtual(model) if in_source == (side == "source") else 0)
        if limit is not None and wanted > limit:
            fix = "shorten the longest source" if side == "source" else "lower max_new_tokens"
            allowed = f"at most {limit}: the model has no more positions"
            raise ModelError(f"model {type(model).__name__}", f"a {side} of {wanted} tokens", allowed, fix)
