# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of training, counted and not timed: 2 for each multiply-add of a matrix product.

    y = x W^T           forward 1 product; backward 1 for x's gradient where something before it trains, 1 for W's
                        where W trains: 3 in full fine-tuning, 2 of a frozen layer inside the model, 1 of the first one
    low-rank update     the same rule for A and B beside a frozen W; each layer says what its own update costs
    once a pass         what a method makes of its parameters alone, whatever the batch holds: DoRA's lengths
    attention           2 products forward (q k^T and p v), up to 4 backward, for each pair of a token and one it sees
    head                over the scored tokens only; a head of values (one row for each text) is left out

Norms, activations, softmaxes, look-ups and the optimiser are left out, as is what is computed a second time to save
memory (gradient checkpointing, a trained head's logits) or asked of a reference model: the count says what the method
asks for, on any machine.
A sliding window does not lower the count of pairs. Each token's pairs with virtual tokens count as its own; what those
cost themselves, once a batch for all its tokens (of an encoder, once a text), is left out, with the network that
computes them. An encoder's token sees its whole text, where a forest counts pairs with the past: twice these less one.

What is asked of each layer is seen in one forward pass over 38 tokens, so experts, shared layers, and layers that no
gradient reaches count as they run. `torch.utils.flop_counter` counts the same of a plain model (a test holds that).
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from luthier.engine.flops_pairs import per_pair, run_pair, split
from luthier.kernels.inserted import within
from luthier.kernels.lowrank import multiply_adds
from luthier.models.backbone import hidden_states
from luthier.models.encoders import encoder_words, reads_both_ways, tokens_of
from luthier.models.heads import task_of_model
from luthier.models.planted import NAME, planted
from luthier.models.probe import probe_forest
from luthier.models.source_target import is_encoder_decoder
from luthier.models.targets import is_linear
from luthier.models.virtual import num_virtual, virtual_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from luthier.kernels.forest import Forest


@runtime_checkable
class Updated(Protocol):
    """A layer with an update beside it (`methods._lowrank.LoraLayer`)."""

    base_layer: torch.nn.Module

    def row_products(self, reached: bool) -> int:
        """Multiply-adds of the update for each row of x, forward and backward; `reached`: x has a gradient."""

    def pass_products(self) -> int:
        """Multiply-adds for each pass of the model besides, forward and backward."""


@runtime_checkable
class PassCost(Protocol):
    """A module that costs something once a pass, whatever that holds."""

    def pass_products(self) -> int:
        """Multiply-adds, forward and backward."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Operations of one training step, forward and backward, by what they grow with.

    Attributes:
        per_token: For each token.
        per_scored: For each scored token: the head.
        per_pair: For each pair of a token and one that it sees (itself too): attention, all layers.
        per_pass: For each forward and backward pass, whatever it holds.
    """

    per_token: float
    per_scored: float
    per_pair: float
    per_pass: float = 0.0

    def total(self, tokens: int, scored: int, pairs: int, passes: int) -> int:
        """Operations of training on so much.

        Example:
            >>> Rates(per_token=6.0, per_scored=2.0, per_pair=1.0, per_pass=4.0).total(10, 3, 55, 2)
            129
        """
        grown = self.per_token * tokens + self.per_scored * scored + self.per_pair * pairs
        return round(grown + self.per_pass * passes)


def count_rates(model: PreTrainedModel) -> Rates:
    """What training a model with its method costs, from one forward pass; random numbers are not used up.

    Args:
        model: With its method applied: what trains has `requires_grad`.
    """
    layers: list[tuple[int, float]] = []
    devices = [model.device] if model.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))  # dropout draws
        stack.enter_context(torch.enable_grad())
        if any(module._compiled_call_impl is not None for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled layers have no hooks
        stack.enter_context(_watched(model, layers))
        if is_encoder_decoder(model):
            return _of_pairs(model, layers)
        forest = probe_forest(model)
        reached, pairs, apart = _forward(model, forest)
    virtual, found = num_virtual(model), virtual_of(model)
    passed = forest.num_tokens + (virtual if found is not None and found.heads is None else 0)
    both = reads_both_ways(model)
    if both and passed > forest.num_tokens:
        passed = within(forest, virtual)[0].num_tokens
    own = sum(rows * products for rows, products in layers) / passed
    return Rates(
        per_token=2.0 * (own + pairs * (virtual - both) + apart),
        per_scored=2.0 * _head_products(model, reached),
        per_pair=2.0 * pairs * (1 + both),
        per_pass=2.0 * sum(module.pass_products() for module in model.modules() if isinstance(module, PassCost)),
    )


def _of_pairs(model: PreTrainedModel, layers: list[tuple[int, float]]) -> Rates:
    reached = run_pair(model)
    source, target = split(model, layers)
    return Rates(
        per_token=2.0 * source,
        per_scored=2.0 * (target - source + _head_products(model, reached)),
        per_pair=2.0 * per_pair(model, reached),
        per_pass=2.0 * sum(module.pass_products() for module in model.modules() if isinstance(module, PassCost)),
    )


def _forward(model: PreTrainedModel, forest: Forest) -> tuple[bool, float, float]:
    """Run the decoder: whether a gradient reaches its end, multiply-adds of attention for each pair, for each token.

    The latter are those of keys that every token sees, apart from the forest's (`models.adaption`).
    """
    decoder: Any = model.get_decoder()
    if model.config._attn_implementation != NAME:
        reached = hidden_states(model, forest).requires_grad
        text = model.config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return reached, text.num_hidden_layers * text.num_attention_heads * 2 * size * (3 if reached else 1), 0
    words = {"input_ids": forest.input_ids[None], "position_ids": forest.position_ids[None], "use_cache": False}
    asked: Any = decoder
    if reads_both_ways(model):  # virtual tokens of an encoder are put into what the whole model is asked
        asked, words = model if virtual_of(model) is not None else decoder, encoder_words(model, forest)
    with planted(forest) as now:
        hidden = tokens_of(asked(**words))
    pairs = apart = 0
    for call in now.attended:
        inside = call.query_trains or call.key_trains
        on_keys = 1 + call.query_trains + call.key_trains  # q k^T, and the gradients of q and of k
        on_values = 1 + inside + call.value_trains  # p v, and the gradients of p and of v
        products = call.heads * (on_keys * call.key_size + on_values * call.value_size)
        pairs += 0 if call.apart else products
        apart += call.apart * products
    return hidden.requires_grad, pairs, apart


@contextmanager
def _watched(model: PreTrainedModel, found: list[tuple[int, float]]) -> Iterator[None]:
    """Inside, each layer that runs adds (rows, multiply-adds for each row, forward and backward)."""
    head, virtual = model.get_output_embeddings(), virtual_of(model)
    apart = set() if virtual is None else set(virtual.modules())
    wrapped = {id(module.base_layer) for module in model.modules() if isinstance(module, Updated)}
    hooks = []
    for module in model.modules():
        if module is head or module in apart or id(module) in wrapped:
            continue
        if isinstance(module, Updated) or is_linear(module) or _stacked(module):
            hooks.append(module.register_forward_pre_hook(_counter(model, found)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _counter(model: PreTrainedModel, found: list[tuple[int, float]]) -> Any:
    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x, products = inputs[0], 0.0
        if isinstance(module, Updated):
            base: Any = module.base_layer
            is_table = isinstance(base, torch.nn.Embedding)
            rows = x.numel() if is_table else x.numel() // x.shape[-1]
            products = module.row_products(x.requires_grad)
            products += 0 if is_table else multiply_adds(base.weight, x.requires_grad)
        else:
            rows = x.numel() // x.shape[-1]
            products = sum(multiply_adds(weight, x.requires_grad) for weight in _matrices(module))
            for stack in _stacked(module):  # [experts, N, K]: a token runs through so many of them
                chosen = getattr(model.config.get_text_config(), "num_experts_per_tok", 1)
                products += multiply_adds(stack, x.requires_grad) * chosen / len(stack)
        found.append((rows, products))

    return count


def _matrices(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [weight for weight in module.parameters(recurse=False) if weight.ndim == 2]


def _stacked(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [weight for weight in module.parameters(recurse=False) if weight.ndim == 3]


def _head_products(model: PreTrainedModel, reached: bool) -> int:
    """Multiply-adds of the head for each scored token."""
    if task_of_model(model) not in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return 0  # a few H for each text, where a layer has 12 H^2 for each token
    head: Any = model.get_output_embeddings()
    if isinstance(head, Updated):
        base: Any = head.base_layer
        return multiply_adds(base.weight, reached) + head.row_products(reached)
    return multiply_adds(head.weight, reached)
