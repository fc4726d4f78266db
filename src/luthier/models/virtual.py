# SPDX-License-Identifier: Apache-2.0
"""Virtual tokens: trained vectors before every example, one parent segment of all trees.

    embeddings         n rows before the tokens' own: they run through every layer, once for all trees of a batch
    keys and values    n of them in each layer, which every token sees; they have no queries and run through nothing

They stand in a hook before the decoder, which adds them to whatever the decoder is asked: a forest, a mask of any
form, or a step of transformers' `generate` with its cache. A second hook takes their hidden states away again, so
nobody else has to know of them: places, scored tokens and trees of a forest stay what they were.

Positions of real tokens go on behind the virtual ones, as in PEFT 0.21. Its prompt tuning leaves positions to the
model, which counts padding in between; here they are what they are in training. (A sliding window of transformers' own
attention counts padding that stands between virtual tokens and words, in PEFT too; `generate` has none there then.)

Shapes: B rows, L tokens of a row, n virtual tokens, H hidden, K key heads, D head size.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache

from luthier.core.errors import ModelError
from luthier.kernels.inserted import under
from luthier.models.encoders import reads_both_ways, takes
from luthier.models.planted import Prefix, planted_now
from luthier.models.source_target import is_encoder_decoder
from luthier.models.virtual_both_ways import hook_encoder
from luthier.models.virtual_pairs import lay_before_sources, pair_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

NAME = "prompt_encoder"  # of the module in the model, as in PEFT
EMBEDDINGS = "prompt_embeddings"  # what PEFT's files call the vectors
ENCODER_FILE = "prompt_encoder.safetensors"  # what they are computed from, where something else trains


class VirtualTokens(nn.Module):
    """n trained vectors before every example.

    Args:
        encoder: Gives them when called: [n, H], or [n, 2 layers K D].
        length: n.
        heads: (K, D) where they are keys and values of all layers; None for embeddings.

    Attributes:
        active: Off, the model computes what it does without them.
        added: Rows that the last call of the model had more for them.
    """

    def __init__(self, encoder: nn.Module, length: int, heads: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.encoder, self.length, self.heads = encoder, length, heads
        self.active, self.added = True, 0

    def forward(self) -> torch.Tensor:
        """The vectors, [n, H] or [n, 2 layers K D]."""
        vectors: torch.Tensor = self.encoder()
        return vectors

    def states(self, dtype: torch.dtype) -> torch.Tensor:
        """Keys and values, [2 layers, K, n, D], in PEFT's order: key and value of layer 0, of layer 1 ..."""
        assert self.heads is not None
        return self().to(dtype).view(self.length, -1, *self.heads).permute(1, 2, 0, 3)

    @staticmethod
    def named(module: Any, args: tuple[Any, ...]) -> dict[str, Any]:
        """Arguments that a module was given by their places, by name."""
        return dict(zip(inspect.signature(module.forward).parameters, args, strict=False))

    def before(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        """Add the virtual tokens to what a decoder is asked (a forward pre-hook)."""
        self.added = 0
        given = self.named(decoder, args) | kwargs
        if not self.active:
            return (), given
        cache = given.get("past_key_values")
        goes_on = cache is not None and cache.get_seq_length() > 0  # they are in the cache already
        rows = self.length if self.heads is None and not goes_on else 0
        if (positions := given.get("position_ids")) is not None:
            first = torch.arange(rows, device=positions.device).expand(*positions.shape[:-1], rows)
            given["position_ids"] = torch.cat([first, positions + self.length], -1)
        if (now := planted_now()) is not None:
            now.seen = under(now.forest, self.length)
        else:
            given["attention_mask"] = _extended(given.get("attention_mask"), self.length, rows, cache)
        if rows:
            given |= self._embedded(decoder, given)
        elif now is not None:
            now.prefix = Prefix(self.states(next(decoder.parameters()).dtype))
        elif not goes_on:
            given["past_key_values"] = self._filled(decoder, given, cache)
        self.added = rows
        return (), given

    def after(self, decoder: Any, args: Any, output: Any) -> Any:  # noqa: ARG002 - a forward hook's signature
        """Take the virtual tokens' hidden states away again (a forward hook)."""
        if self.added and isinstance(output, tuple):
            return (output[0][:, self.added :], *output[1:])
        if self.added:
            output.last_hidden_state = output.last_hidden_state[:, self.added :]
            if getattr(output, "hidden_states", None) is not None:
                output.hidden_states = tuple(hidden[:, self.added :] for hidden in output.hidden_states)
        return output

    def _embedded(self, decoder: Any, given: dict[str, Any]) -> dict[str, Any]:
        own = given.get("inputs_embeds")
        own = decoder.get_input_embeddings()(given["input_ids"]) if own is None else own
        vectors = self().to(own.dtype).expand(own.shape[0], -1, -1)
        return {"input_ids": None, "inputs_embeds": torch.cat([vectors, own], 1)}

    def _filled(self, decoder: Any, given: dict[str, Any], cache: Any) -> Any:
        """A cache that begins with the prefix; one that was given is filled in place, its owner keeps it."""
        if decoder.training and any(getattr(layer, "gradient_checkpointing", False) for layer in decoder.modules()):
            received = f"{type(decoder).__name__} with an attention of its own, and gradient checkpointing"
            raise ModelError("prefix tuning", received, "one of them", "set train.gradient_checkpointing to false")
        if cache is None:
            cache = DynamicCache(config=decoder.config)
            if decoder.config.is_encoder_decoder:
                cache = EncoderDecoderCache(cache, DynamicCache(config=decoder.config))
        first = given.get("input_ids")
        rows = (given["inputs_embeds"] if first is None else first).shape[0]
        states = self.states(next(decoder.parameters()).dtype)[:, None].expand(-1, rows, -1, -1, -1)
        own = getattr(cache, "self_attention_cache", cache)  # of an encoder-decoder it is one of two
        for layer in range(len(states) // 2):
            place = pair_of(layer, len(states) // 2) if own is not cache else layer
            own.update(states[2 * place], states[2 * place + 1], layer)
        return cache


def _extended(mask: Any, length: int, rows: int, cache: Any) -> torch.Tensor | None:
    """An attention mask with virtual tokens in front.

    Args:
        mask: None, [B, L] with 1 for tokens and 0 for padding, or [B, 1, L, L] of numbers that are added to scores.
        length: Columns more: everyone sees the virtual tokens.
        rows: Rows more: their own, where they have queries.
        cache: The decoder's, if it has one.
    """
    if mask is None:
        return None
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        return torch.cat([mask.new_ones(mask.shape[0], length), mask], 1)
    if isinstance(mask, torch.Tensor) and mask.ndim == 4 and mask.is_floating_point() and cache is None:
        whole = mask.new_zeros(*mask.shape[:2], rows + mask.shape[2], length + mask.shape[3])
        if rows:
            hidden = torch.ones(rows, whole.shape[3], dtype=torch.bool, device=mask.device).triu(1)
            whole[:, :, :rows].masked_fill_(hidden, torch.finfo(mask.dtype).min)
        whole[:, :, rows:, length:] = mask
        return whole
    received = f"a mask of {type(mask).__name__}" + (
        f" with {mask.ndim} axes" if isinstance(mask, torch.Tensor) else ""
    )
    raise ModelError("virtual tokens", received, "a mask [batch, tokens] or none", "generate with a dynamic cache")


def lay_before(model: PreTrainedModel, virtual: VirtualTokens) -> Callable[[], None]:
    """Put virtual tokens before everything that a model is asked.

    Returns:
        What takes them away again.

    Raises:
        ModelError: It has some already, or reads ids of its tokens a second time, which virtual ones do not have.
    """
    where, decoder = f"model {type(model).__name__}", model.get_decoder()
    if virtual_of(model) is not None:
        raise ModelError(where, "virtual tokens a second time", "one adapter", "load the base again")
    if getattr(model.config.get_text_config(), "vocab_size_per_layer_input", None) and virtual.heads is None:
        received = "embeddings of each layer, which are looked up by id"
        raise ModelError(where, received, "models with one embedding", "choose prefix, or lora")
    both = reads_both_ways(model)
    if both and virtual.heads is not None and not takes(decoder, "past_key_values"):
        received = "keys and values before its text, which its layers do not take"
        raise ModelError(where, received, "BERT, RoBERTa, ELECTRA and their kin", "choose prompt, ptuning or lora")
    hooks: tuple[Any, ...]
    if both:
        hooks = hook_encoder(model, virtual)
    elif is_encoder_decoder(model) and virtual.heads is None:
        hooks = lay_before_sources(model, virtual)
    else:
        before = decoder.register_forward_pre_hook(virtual.before, with_kwargs=True)
        hooks = (before, decoder.register_forward_hook(virtual.after))
    model.add_module(NAME, virtual)

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        delattr(model, NAME)

    return undo


def virtual_of(model: nn.Module) -> VirtualTokens | None:
    """The virtual tokens of a model, if it has some."""
    found = getattr(model, NAME, None)
    return found if isinstance(found, VirtualTokens) else None


def num_virtual(model: nn.Module) -> int:
    """How many virtual tokens stand before everything now: 0 where there are none, or they are switched off."""
    found = virtual_of(model)
    return found.length if found is not None and found.active else 0
