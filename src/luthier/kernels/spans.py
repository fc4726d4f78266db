# SPDX-License-Identifier: Apache-2.0
"""The best spans of a window of tokens, from logits of where an answer starts and where it ends.

Shapes: L tokens of a window, M tokens of a span at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating]


class Best(NamedTuple):
    """A span of tokens.

    Attributes:
        score: Logit of its start plus logit of its end.
        first: Its first token in the window.
        last: Its last token.
    """

    score: float
    first: int
    last: int


def best_spans(logits: Floats, candidates: npt.NDArray[np.bool_], most: int, count: int = 1) -> list[Best]:
    """The spans of candidates with the highest scores, the best first; of equal ones the earlier, shorter one.

    Args:
        logits: Of start and end, [L, 2].
        candidates: Tokens that an answer may have, bool [L]; a span holds no others at its ends.
        most: M.
        count: How many spans at most.

    Example:
        >>> logits = np.array([[9.0, 9.0], [2.0, 0.0], [0.0, 1.0], [1.0, 3.0]])
        >>> best_spans(logits, np.array([False, True, True, True]), most=2, count=2)
        [Best(score=4.0, first=3, last=3), Best(score=3.0, first=1, last=2)]
    """
    length = len(logits)
    most = min(most, length)
    start, end = (np.where(candidates, logits[:, side].astype(np.float64), -np.inf) for side in (0, 1))
    ends = np.concatenate([end, np.full(most, -np.inf)])
    scores_LM = start[:, None] + np.lib.stride_tricks.sliding_window_view(ends, most)[:length]
    order = np.argsort(-scores_LM, axis=None, kind="stable")[:count]
    found = [Best(float(scores_LM.flat[k]), int(k) // most, int(k) // most + int(k) % most) for k in order]
    return [best for best in found if np.isfinite(best.score)]
