# SPDX-License-Identifier: Apache-2.0
"""Windows of a text that is longer than a model takes: where they lie, and in which of them a token is seen best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from luthier.data.faults import RowFault

if TYPE_CHECKING:
    import numpy.typing as npt

    from luthier.recipe.schema import Data


def windows(count: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Lay windows over tokens: each has `room` of them but for the last, and shares `stride` with the one before.

    They are those of the tokenizers library (`return_overflowing_tokens` and `stride` of transformers).

    Args:
        count: Tokens.
        room: Tokens of a window.
        stride: Tokens that two windows share, less than `room`.

    Returns:
        First token and end of each.

    Example:
        >>> windows(10, 5, 2), windows(4, 5, 2)
        ([(0, 5), (3, 8), (6, 10)], [(0, 4)])
    """
    if room <= stride:
        raise ValueError(f"windows of {room} tokens cannot share {stride}")
    found = [(0, min(count, room))]
    while found[-1][1] < count:
        start = found[-1][1] - stride
        found.append((start, min(count, start + room)))
    return found


def best_seen(places: npt.NDArray[np.int64], laid: list[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Return the window in which each token has most context, to the side where it has less; of equal ones the first.

    Args:
        places: Places of tokens, shape [K]; each lies in a window.
        laid: First token and end of each window.

    Returns:
        Number of a window for each, shape [K].

    Reference:
        Devlin et al., "BERT", 2018: the "maximum context" of their script for SQuAD.

    Example:
        >>> best_seen(np.array([0, 3, 4, 9]), windows(10, 5, 2)).tolist()
        [0, 0, 1, 2]
    """
    starts, ends = np.array(laid, np.int64).T[:, :, None]  # each of shape [W, 1]
    owners: npt.NDArray[np.int64] = np.argmax(np.minimum(places - starts, ends - 1 - places), axis=0)
    return owners


def laid_out(data: Data, length: int, inside: int) -> list[tuple[int, int]] | RowFault:
    """Lay windows over one text such that each has at most ``max_length`` tokens with what stands around it.

    Args:
        data: ``max_length``, ``doc_stride``, ``truncation``.
        length: All tokens of the row, uncut.
        inside: Those of the text that is cut into windows.
    """
    if length <= data.max_length:
        return [(0, inside)]
    if data.truncation == "refuse":
        return RowFault("longer than max_length", f"{length:,} tokens")
    room = data.max_length - (length - inside)
    if room <= data.doc_stride:
        said = f"{length - inside:,} tokens stand around each window, and doc_stride is {data.doc_stride}"
        return RowFault("longer than max_length, which leaves no room for windows", said)
    return windows(inside, room, data.doc_stride)
