# SPDX-License-Identifier: Apache-2.0
"""Several adapters on one frozen base in one forward pass: each tree of the forest runs under its own adapter.

    members     one model for each adapter: its own modules and trained parameters around the base's own matrices
    trunk       the same modules once more; where members differ from the base stands a layer that knows them all

A member is a whole model: it is adapted, evaluated, saved and asked like any other, and costs the memory of what it
trains. The trunk runs what all share (frozen products, norms, attention) over all tokens at once. Where a member has
changed a linear by a low-rank update, the base product is shared and each update added on its own tokens
(`kernels.lowrank_many`); whatever else a member has changed (an embedding, a bias, a module that trains whole) runs
on its tokens as it stands in that member.

Shapes: T tokens of all adapters, S scored tokens, K inputs, H hidden.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import ModelError
from luthier.kernels.forest import Share
from luthier.kernels.lowrank_many import Part, many_lowrank_linear
from luthier.models.adaption_many import attach_many
from luthier.models.backbone import head_logits, head_logprobs, hidden_states

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

    from luthier.kernels.forest import Forest
    from luthier.kernels.slots import Piece
    from luthier.models.draws import Draws


# What layers of methods call the share that they drop in training.
_RATES = ("dropout", "rank_dropout", "module_dropout")


@runtime_checkable
class LowRankLayer(Protocol):
    """A linear with a low-rank update beside it (`methods._lowrank.LoraLinear`)."""

    base_layer: nn.Module

    def part(self, x: torch.Tensor, tokens: slice) -> Part:
        """The update for some tokens, given the layer's input at them."""


def member_of(base: PreTrainedModel) -> PreTrainedModel:
    """A model of its own modules around the base's matrices and buffers.

    Vectors (biases, norms) are copied: a method may train them, and they are a thousandth of a model.
    """
    shared = [*(p for p in base.parameters() if p.ndim > 1), *base.buffers()]
    return copy.deepcopy(base, {id(tensor): tensor for tensor in shared})


@dataclass
class _Now:
    """The pass that is under way.

    Attributes:
        shares: Each member's part of the forest.
        total: Tokens of the forest.
    """

    shares: list[Share] = field(default_factory=list)
    total: int = 0


class SideBySide:
    """A trunk over several members.

    Args:
        base: Proven and frozen; left as it is.
        members: Made by :func:`member_of` and rewired by their methods.
        draws: Each member's random numbers: its dropout draws in a shared pass what it would draw alone.

    Attributes:
        members: As given.
        trunk: What runs several members at once.
        draws: As given.

    Raises:
        ModelError: The members' changes cannot run side by side.
    """

    def __init__(self, base: PreTrainedModel, members: Sequence[PreTrainedModel], draws: Sequence[Draws]) -> None:
        self.members, self.draws = list(members), list(draws)
        self._now = _Now()
        self.trunk: Any = member_of(base)
        self.trunk.requires_grad_(False)
        head = next((n for n, m in base.named_modules() if m is base.get_output_embeddings()), None)
        changed = self._rewire(base)
        self._own_heads = head in changed
        self.trunk.train()

    def logprobs(self, forest: Forest) -> torch.Tensor:
        """Log-probability of each scored token under the adapter of its tree, float32 [S].

        Args:
            forest: On the model's device; trees in the order of their adapters.

        Raises:
            ModelError: A layer sees other tokens than the forest's.
        """
        self._now.shares, self._now.total = forest.shares(len(self.members)), forest.num_tokens
        hidden = hidden_states(self.trunk, forest).index_select(0, forest.score_index)
        if not self._own_heads:
            return head_logprobs(self.trunk, hidden, forest.score_target)
        found = []
        for member, draws, share in zip(self.members, self.draws, self._now.shares, strict=True):
            if share.scored.stop > share.scored.start:
                with _drawing(member, draws):
                    found.append(head_logprobs(member, hidden[share.scored], forest.score_target[share.scored]))
        return torch.cat(found) if found else hidden.new_zeros(0, dtype=torch.float32)

    def logits(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, ends: torch.Tensor, shares: list[Share]
    ) -> torch.Tensor:
        """What follows some tokens, each under its adapter: logits, float32 [S, V].

        Args:
            input_ids: [T]; what each token sees is told to the trunk's attention (`models.slots`).
            position_ids: [T].
            ends: Whose successors are asked for, int64 [S].
            shares: Each member's tokens, and its part of `ends`.
        """
        self._now.shares, self._now.total = shares, len(input_ids)
        decoder = self.trunk.get_decoder()
        output = decoder(input_ids=input_ids[None], position_ids=position_ids[None], use_cache=False)
        hidden = output.last_hidden_state[0].index_select(0, ends)
        if not self._own_heads:
            return head_logits(self.trunk, hidden)
        asked = [(member, share.scored) for member, share in zip(self.members, shares, strict=True)]
        found = [head_logits(member, hidden[some]) for member, some in asked if some.stop > some.start]
        return torch.cat(found)

    def _rewire(self, base: PreTrainedModel) -> set[str]:
        """Put the layers that know all members where one of them differs from the base; their names."""
        changed: set[str] = set()
        for name, module in base.named_modules():
            if any(name.startswith(f"{outer}.") for outer in changed):
                continue
            own = [member.get_submodule(name) for member in self.members]
            attach_many(self.trunk.get_submodule(name), own, self._now)
            if all(type(one) is type(module) and not _trains(one) for one in own):
                continue
            if not name:
                raise ModelError(f"model {type(base).__name__}", "a method that replaces the whole model")
            changed.add(name)
            kind = ManyLinear if all(_is_linear_of(one, module) for one in own) else PerAdapter
            parent, _, leaf = name.rpartition(".")
            setattr(self.trunk.get_submodule(parent), leaf, kind(module, own, self.draws, self._now))
        return changed


def shares_of(pieces: Sequence[Piece], adapters: int) -> list[Share]:
    """Which tokens of a pass are each adapter's, and which pieces; the pieces stand in the adapters' order."""
    found, token, place = [], 0, 0
    for adapter in range(adapters):
        first, own = token, place
        while place < len(pieces) and pieces[place].adapter == adapter:
            token, place = token + len(pieces[place].ids), place + 1
        found.append(Share(tokens=slice(first, token), scored=slice(own, place)))
    if place < len(pieces):
        raise ValueError("the pieces of a pass must stand in the order of their adapters")
    return found


class PerAdapter(nn.Module):
    """Each member's own layer on its own tokens; any layer that works token by token."""

    def __init__(self, base: nn.Module, own: list[nn.Module], draws: list[Draws], now: _Now) -> None:
        super().__init__()
        # In tuples, so that they are not submodules: each has a model of its own.
        self.base, self.own, self.draws, self.now = (base,), tuple(own), tuple(draws), now
        self.heads_axis = 1  # where [1, ., ., D] had its tokens when it was last clear

    @property
    def weight(self) -> torch.Tensor:
        """The base's weight; some models read it."""
        return self.base[0].weight  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, T, ...] or [T, ...], split along the tokens and put together again."""
        axis = _token_axis(self, x, self.now.total)
        found = []
        for layer, draws, share in zip(self.own, self.draws, self.now.shares, strict=True):
            length = share.tokens.stop - share.tokens.start
            if length:
                with _drawing(layer, draws):
                    found.append(layer(x.narrow(axis, share.tokens.start, length)))
        return torch.cat(found, axis)


class ManyLinear(PerAdapter):
    """A frozen linear whose members add low-rank updates or have biases of their own."""

    def __init__(self, base: nn.Module, own: list[nn.Module], draws: list[Draws], now: _Now) -> None:
        super().__init__(base, own, draws, now)
        self.transposed = isinstance(base, Conv1D)
        self.own_biases = any(_trains(_base_of(one)) for one in own)
        # Once: asking a protocol at every call took a tenth of the time of a served pass.
        self.updates = tuple(one if isinstance(one, LowRankLayer) else None for one in own)

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's bias."""
        return self.base[0].bias  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, T, K] to [1, T, N]."""
        axis = _token_axis(self, x, self.now.total)
        parts = []
        for layer, update, draws, share in zip(self.own, self.updates, self.draws, self.now.shares, strict=True):
            tokens = share.tokens
            if tokens.stop == tokens.start:
                continue
            part = Part(start=tokens.start, stop=tokens.stop)
            if update is not None:
                with _drawing(layer, draws):
                    part = update.part(x.detach().narrow(axis, tokens.start, tokens.stop - tokens.start), tokens)
            parts.append(_with_bias(part, layer) if self.own_biases else part)
        weight = self.weight.T if self.transposed else self.weight
        return many_lowrank_linear(x, weight, None if self.own_biases else self.bias, parts)


def _with_bias(part: Part, layer: nn.Module) -> Part:
    bias = _base_of(layer).bias
    return Part(
        start=part.start, stop=part.stop, a=part.a, b=part.b, scaling=part.scaling, noise=part.noise,
        bias=bias,  # type: ignore[arg-type]
    )  # fmt: skip


def _base_of(layer: nn.Module) -> nn.Module:
    return layer.base_layer if isinstance(layer, LowRankLayer) else layer


def _is_linear_of(layer: nn.Module, base: nn.Module) -> bool:
    """Whether a layer is this linear with its frozen matrix, a low-rank update and another bias allowed."""
    inner = _base_of(layer)
    return type(base) in (nn.Linear, Conv1D) and type(inner) is type(base) and inner.weight is base.weight


def _trains(module: nn.Module) -> bool:
    """Whether a parameter of a module itself, not of one inside it, trains."""
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _token_axis(layer: PerAdapter, x: torch.Tensor, total: int) -> int:
    """Where the tokens of all adapters stand.

    Raises:
        ModelError: A layer gets some of the tokens only (an expert): whose they are cannot be told.
    """
    axis = 1 if x.ndim > 1 and x.shape[0] == 1 and total > 1 else 0
    if axis and x.ndim == 4:  # norms of queries and keys: [1, T, heads, D], or [1, heads, T, D] (Gemma 3)
        if (x.shape[1] == total) != (x.shape[2] == total):
            layer.heads_axis = 1 if x.shape[1] == total else 2
        axis = layer.heads_axis
    if x.shape[axis] != total:
        kind = type(layer.base[0]).__name__
        received = f"an adapted {kind} that gets {x.shape[axis]} of {total} tokens"
        raise ModelError("adapters side by side", received, "layers that get every token", "train each alone")
    return axis


def _drawing(module: nn.Module, draws: Draws) -> AbstractContextManager[Any]:
    """Draw a member's own numbers where it draws any."""
    drops = module.training and any(getattr(one, rate, 0) for one in module.modules() for rate in _RATES)
    return draws if drops else nullcontext()
