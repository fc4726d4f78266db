# SPDX-License-Identifier: Apache-2.0
"""The next token of each row: the likeliest, or drawn as its reply asked; and what is told of its chances.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from luthier.models.sampling import noised, nucleus
from luthier.serve.asked import Chance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.serve.asked import Asked


def next_tokens(logits: torch.Tensor, asked: Sequence[Asked], draws: Sequence[torch.Generator | None]) -> list[int]:
    """One token a row.

    Args:
        logits: float32 [R, V].
        asked: What each row's reply was asked for.
        draws: Each row's random numbers; None where the likeliest token is taken.

    Returns:
        R token ids; a row draws what `models.generate` draws from its seed and number.
    """
    chosen = logits.argmax(-1)
    drawn = [(row, generator) for row, generator in enumerate(draws) if generator is not None]
    if drawn:
        rows = [row for row, _ in drawn]
        heat = logits.new_tensor([[asked[row].temperature] for row in rows])
        share = logits.new_tensor([[asked[row].top_p] for row in rows])
        scores = logits[rows] / heat
        if bool((share < 1).any()):
            scores = torch.where(share < 1, nucleus(scores, share), scores)
        chosen[rows] = noised(scores, [generator for _, generator in drawn]).argmax(-1)
    found: list[int] = chosen.tolist()
    return found


def chances(logits: torch.Tensor, tokens: Sequence[int], asked: Sequence[Asked]) -> list[Chance | None]:
    """The log-probability of each row's token and of the likeliest ones, where they are asked for."""
    found: list[Chance | None] = [None] * len(tokens)
    rows = [row for row, one in enumerate(asked) if one.top_logprobs is not None]
    if not rows:
        return found
    logps = torch.log_softmax(logits[rows], -1)
    own = logps.gather(1, torch.tensor([[tokens[row]] for row in rows], device=logps.device))[:, 0].tolist()
    values, ids = logps.topk(min(logps.shape[1], max(asked[row].top_logprobs or 0 for row in rows) or 1))
    for row, logprob, some, names in zip(rows, own, values.tolist(), ids.tolist(), strict=True):
        count = asked[row].top_logprobs or 0
        top = tuple(zip(names[:count], some[:count], strict=True))
        found[row] = Chance(token=tokens[row], logprob=logprob, top=top)
    return found
