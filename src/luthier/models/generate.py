# SPDX-License-Identifier: Apache-2.0
"""Prompts -> replies: chat template, stops at the end of the turn; over slots, or by transformers' own `generate`.

Models that the loader gave Luthier's attention run over slots (`models.generate_slots`), once it is proven that they
can; others in batches of like lengths with padding on the left. A reply does not depend on which prompts share its
batch: padding is masked, and sampling draws from a generator of its own for each prompt (Gumbel-max: the largest of
logit + noise is a sample of the softmax).

Shapes: B prompts of a batch, L longest of them, V vocabulary.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from luthier.core.errors import DataError, ModelError, UserError
from luthier.models.backbone import learned_positions, serving
from luthier.models.generate_pairs import Asked, encode_sources, write_targets
from luthier.models.generate_slots import write_replies
from luthier.models.heads import task_of_model
from luthier.models.sampling import Draw, generator
from luthier.models.threads import fitting_threads
from luthier.models.virtual import num_virtual

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Prompt = str | Sequence[Mapping[str, str]]


def generate(  # noqa: PLR0913 - the usual names, keyword only
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 256,
    batch_size: int = 16,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    raw: bool = False,
) -> list[str]:
    """Let a model answer.

    Args:
        model: With or without a method applied; left as it was. An encoder-decoder reads the prompt as its source.
        tokenizer: With the chat template that the model was trained with.
        prompts: Strings, or conversations ({"role", "content"} each) that end before the reply. A string is one
            user turn, unless `raw`.
        max_new_tokens: Longest reply.
        batch_size: Prompts at a time.
        temperature: 0 takes the likeliest token each time; otherwise logits are divided by it and drawn from.
        top_p: Draw only from the likeliest tokens that have this probability together (arXiv 1904.09751).
        seed: Of the draws. What the checkpoint's generation_config.json says is not used.
        raw: Take strings as they are, without the chat template, and give the replies with their spaces.

    Returns:
        The replies in the prompts' order, without special tokens.

    Raises:
        DataError: A prompt is empty, or the chat template cannot render it.
        ModelError: There is no chat template, a prompt is too long for the model's positions, or the model is a reward
            model.
    """
    if (task := task_of_model(model)) not in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        given = {"SEQ_CLS": "values", "TOKEN_CLS": "labels", "QUESTION_ANS": "spans"}.get(task, "vectors")
        received = f"a model for {task}: its head gives {given}, not words"
        fix = "give a language model; `luthier evaluate` asks one of another task"
        raise ModelError(f"model {type(model).__name__}", received, "a language model", fix)
    _check(max_new_tokens, batch_size, temperature, top_p)
    words: Any = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    asked = Asked(temperature=temperature, top_p=top_p, seed=seed, **words)
    if task == "SEQ_2_SEQ_LM":
        sources, stops = encode_sources(tokenizer, prompts), stop_ids(model, tokenizer, raw=True)
        targets = write_targets(model, tokenizer, sources, stops, asked)
        return targets if raw else [target.strip() for target in targets]
    encoded = [encode_prompt(tokenizer, prompt, number, raw) for number, prompt in enumerate(prompts)]
    _check_positions(model, max(map(len, encoded), default=0) + max_new_tokens)
    stops = stop_ids(model, tokenizer, raw)
    if not encoded:
        return []
    with fitting_threads(model):
        found = write_replies(model, encoded, stops, asked)
        rows = _padded(model, encoded, stops, asked) if found is None else found
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    return texts if raw else [text.strip() for text in texts]


def _padded(model: PreTrainedModel, encoded: list[list[int]], stops: list[int], asked: Asked) -> list[list[int]]:
    """Ids of replies by transformers' own `generate`, for models that do not run on slots."""
    replies: list[list[int]] = [[] for _ in encoded]
    # Longest first: padding stays small, and what does not fit into memory fails at once.
    order = sorted(range(len(encoded)), key=lambda number: -len(encoded[number]))
    with serving(model):
        for numbers in _batches(model, order, encoded, asked.batch_size):
            draw = None
            if asked.temperature > 0:
                generators = [generator(asked.seed, number, model.device) for number in numbers]
                draw = Draw(asked.temperature, asked.top_p, generators)
            rows = _batch(model, [encoded[number] for number in numbers], asked.max_new_tokens, stops, draw)
            for number, row in zip(numbers, rows, strict=True):
                replies[number] = row
    return replies


def _batches(
    model: PreTrainedModel, order: list[int], encoded: list[list[int]], batch_size: int
) -> Iterator[list[int]]:
    """Numbers of prompts that are answered together.

    Where windows and virtual tokens meet, they are of one length: padding stands between virtual tokens and words then,
    and transformers' windows count it.
    """
    alike = num_virtual(model) > 0 and getattr(model.config.get_text_config(), "sliding_window", None) is not None
    for _, some in groupby(order, key=lambda number: len(encoded[number]) if alike else 0):
        numbers = list(some)
        yield from (numbers[first : first + batch_size] for first in range(0, len(numbers), batch_size))


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, raw: bool = False) -> list[int]:
    """Tokens that end a reply: the tokenizer's and the checkpoint's end, and the chat template's end of turn."""
    told = getattr(model.generation_config, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])}
    if not raw:
        found.add(_end_of_turn(tokenizer))
    return sorted(token for token in found if token is not None)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts behind a reply, if it is one."""
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "REPLY"}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except (TemplateError, ValueError, TypeError):
        return None
    behind = str(text).rpartition("REPLY")[2].lstrip()
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return ids[0] if ids and ids[0] in special else None


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, number: int, raw: bool) -> list[int]:
    """Token ids of a prompt, as :func:`generate` gives them to the model; `number` is told when something is wrong."""
    from jinja2.exceptions import TemplateError

    where = f"prompt {number + 1}"
    if isinstance(prompt, str) and raw:
        ids = tokenizer(prompt)["input_ids"]
    else:
        turns: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if not tokenizer.chat_template:
            raise ModelError(
                "the tokenizer",
                "no chat template",
                "one, for conversations; raw prompts need none",
                "use raw prompts (--raw), or choose one with data.chat_template when you train",
            )
        try:
            rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)
        except (TemplateError, KeyError, TypeError, ValueError) as error:
            allowed = "turns with role and content, in an order that the chat template takes"
            raise DataError(where, f"the chat template refuses it ({error})", allowed) from error
        ids = rendered["input_ids"]
    if not ids:
        raise DataError(where, "no tokens", "at least one", "write something")
    return list(ids)


def _batch(
    model: PreTrainedModel, prompts: list[list[int]], max_new_tokens: int, stops: list[int], draw: Draw | None
) -> list[list[int]]:
    """Generate for a few prompts; ids of each reply up to its stop."""
    longest = max(map(len, prompts))
    padding = stops[0] if stops else 0  # any token: the mask hides it
    ids_BL = torch.tensor([[padding] * (longest - len(one)) + one for one in prompts], device=model.device)
    mask_BL = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], device=model.device)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=padding, eos_token_id=stops or None, use_cache=True
    )
    # Fields that are not set here would come from the checkpoint's own settings (a temperature, penalties).
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        out = model.generate(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            generation_config=config,
            logits_processor=LogitsProcessorList([draw] if draw else []),
        )
    finally:
        model.generation_config = own
    rows: list[list[int]] = out[:, longest:].tolist()
    ends = [next((place for place, token in enumerate(row) if token in stops), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def _check(max_new_tokens: int, batch_size: int, temperature: float, top_p: float) -> None:
    for name, value, fine, allowed in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "at least 1"),
        ("batch_size", batch_size, batch_size >= 1, "at least 1"),
        ("temperature", temperature, 0 <= temperature < float("inf"), "0 for the likeliest token, or more"),
        ("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1"),
    ):
        if not fine:
            raise UserError(name, str(value), allowed, "correct it")


def _check_positions(model: PreTrainedModel, wanted: int) -> None:
    limit = learned_positions(model.get_decoder())
    if limit is not None and (wanted := wanted + num_virtual(model)) > limit:
        raise ModelError(
            f"model {type(model).__name__}",
            f"{wanted} tokens of prompt and reply",
            f"at most {limit}: the model has learned no more positions",
            "lower max_new_tokens, or shorten the longest prompt",
        )
