# SPDX-License-Identifier: Apache-2.0
"""Adaption prompts of several members on one trunk: each layer adds to a member's tokens what its own prompt says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from luthier.models.adaption import CHILD, AdaptionPrompt, attach_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.kernels.forest import Share


class Now(Protocol):
    """The pass that is under way."""

    shares: list[Share]


class ManyPrompts(nn.Module):
    """The prompts of one layer, each for the tokens of its member.

    Args:
        prompts: One for each member; None where a member has none.
        now: Tells whose the tokens of a pass are.
    """

    def __init__(self, prompts: Sequence[AdaptionPrompt | None], now: Now) -> None:
        super().__init__()
        self.prompts, self.now = tuple(prompts), now  # in a tuple: each stands in a model of its own
        self.late = any(prompt.late for prompt in prompts if prompt is not None)
        self.active, self.asked = True, False
        self.waiting: torch.Tensor | None = None

    def term(self, query: torch.Tensor, scaling: float) -> torch.Tensor:
        """What is added to each token, [1, T, H, D]; zeros where its member has no prompt.

        Args:
            query: Of all members, [1, H, T, D].
            scaling: Of its scores.
        """
        found = []
        for prompt, share in zip(self.prompts, self.now.shares, strict=True):
            own = query[:, :, share.tokens]
            asked = prompt is not None and prompt.active
            found.append(prompt.term(own, scaling) if asked else None)  # type: ignore[union-attr]
        size = next((one.shape[-1] for one in found if one is not None), query.shape[-1])
        lengths = [share.tokens.stop - share.tokens.start for share in self.now.shares]
        terms = zip(found, lengths, strict=True)
        whole = [query.new_zeros(1, length, query.shape[1], size) if one is None else one for one, length in terms]
        return torch.cat(whole, 1)


def attach_many(attention: nn.Module, own: Sequence[nn.Module], now: Now) -> bool:
    """Let an attention module of a trunk see its members' prompts.

    Args:
        attention: The trunk's; changed in place where a member has a prompt.
        own: The same module of each member.
        now: See :class:`ManyPrompts`.

    Returns:
        Whether one has.
    """
    prompts = [getattr(module, CHILD, None) for module in own]
    if not any(isinstance(prompt, AdaptionPrompt) for prompt in prompts):
        return False
    attach_to(attention, ManyPrompts(prompts, now))
    return True
