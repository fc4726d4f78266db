# SPDX-License-Identifier: Apache-2.0
"""Low-rank linears that read the same input (query, key and value; gate and up) as one node: x is read once for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.kernels.lowrank import lowrank_linear, lowrank_linears
from luthier.methods._lowrank import LoraLinear

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from luthier.methods._lowrank import LoraLayer


class Siblings:
    """Linears that read the same input: the first one's call computes all, the others fetch their output.

    Args:
        members: In any order of calls. Where they turn out not to read the same tensor, each goes its own way for good.
    """

    def __init__(self, members: Iterable[LoraLinear]) -> None:
        self.members = tuple(members)
        self.input: torch.Tensor | None = None
        self.waiting: dict[LoraLinear, torch.Tensor] = {}
        for member in self.members:
            member.siblings = self

    def output(self, member: LoraLinear, x: torch.Tensor) -> torch.Tensor:
        """A member's output for x."""
        if x is self.input and member in self.waiting:
            found = self.waiting.pop(member)
            if not self.waiting:
                self.input = None  # nothing is kept from one step to the next
            return found
        if self.waiting or not all(other.active for other in self.members):
            self.part_ways()
            return lowrank_linear(x, *member.low_rank())
        outputs = lowrank_linears(x, [other.low_rank() for other in self.members])
        self.input, self.waiting = x, dict(zip(self.members, outputs, strict=True))
        return self.waiting.pop(member)

    def part_ways(self) -> None:
        """From now on each member computes its own."""
        self.input = None
        self.waiting.clear()
        for member in self.members:
            member.siblings = None


# Names of linears that read one input in transformers' models.
_FAMILIES = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("query", "key", "value"),
    ("w1", "w3"),
    ("q", "k", "v"),
    ("wi_0", "wi_1"),
)
# A decoder's attention to the source: its queries read the target, and its keys and values the source.
_CROSS = {"q_proj": "encoder_attn", "q": "EncDecAttention"}


def join(layers: Mapping[str, LoraLayer]) -> None:
    """Let linears that read the same input compute together; with dropout each sees an input of its own.

    Args:
        layers: Dotted name in the model -> layer.
    """
    for parent in dict.fromkeys(name[: name.rfind(".") + 1] for name in layers):
        for family in _FAMILIES:
            crossed = _CROSS.get(family[0]) == parent.rstrip(".").split(".")[-1]
            found = (layers.get(parent + leaf) for leaf in family[1 if crossed else 0 :])
            members = [layer for layer in found if isinstance(layer, LoraLinear) and not layer.dropout]
            if len(members) > 1 and len({layer.in_features for layer in members}) == 1:
                Siblings(members)
