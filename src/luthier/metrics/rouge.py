# SPDX-License-Identifier: Apache-2.0
"""ROUGE-L: F1 of the longest common subsequence of words (of characters, in Chinese)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from luthier.metrics._words import words
from luthier.metrics.f1 import harmonic

if TYPE_CHECKING:
    from collections.abc import Sequence


def rouge_l(predicted: str, references: Sequence[str]) -> float:
    """ROUGE-L between 0 and 1, the best over several references; 0 without any.

    Words are as in Google's `rouge_score` without a stemmer (lower case, letters and digits); it drops all scripts
    but Latin, here they count.

    Reference:
        Lin, ROUGE: a package for automatic evaluation of summaries, 2004, section 3.1, with beta = 1.

    Example:
        >>> round(rouge_l("the cat sat", ["The cat is sat down."]), 3), rouge_l("我爱北京", ["北京"])
        (0.75, 0.6666666666666666)
    """
    ours = words(predicted)
    return max((_score(ours, words(reference)) for reference in references), default=0.0)


def _score(ours: Sequence[str], true: Sequence[str]) -> float:
    return harmonic(common(ours, true), len(ours), len(true)) if ours and true else 0.0


def common(ours: Sequence[str], true: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Example:
        >>> common("abcbdab", "bdcaba")
        4
    """
    row = np.zeros(len(true) + 1, np.int64)
    other = np.array(list(true), dtype=object)
    for word in ours:
        here = np.concatenate([[0], row[:-1] + (other == word)])
        row = np.maximum.accumulate(np.maximum(row, here))
    return int(row[-1])
