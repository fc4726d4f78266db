# SPDX-License-Identifier: Apache-2.0
"""Exact match and F1 of answers, as SQuAD v1.1 computes them; of Chinese ones as CMRC 2018 does.

Both are shares between 0 and 1, the best over all right answers. A question without an answer (SQuAD v2.0) is right
where nothing is answered.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import TYPE_CHECKING

from luthier.metrics._words import is_chinese
from luthier.metrics.f1 import harmonic

if TYPE_CHECKING:
    from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# What the evaluation of CMRC 2018 leaves out.
_MARKS = set("-:_*^/\\~`+=，。：？！“”；’《》……·、「」（）－～『』")  # noqa: RUF001 - as they stand there
_MIXED = re.compile("[\u4e00-\u9fff]|[^\\s\u4e00-\u9fff]+")


def normalised(text: str) -> list[str]:
    """Words without case, punctuation and English articles.

    Example:
        >>> normalised("The  U.S.-led team")
        ['usled', 'team']
    """
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def characters(text: str) -> list[str]:
    """Chinese characters one by one and other words whole, without case and marks.

    Example:
        >>> characters("1990年，在 NBA。")
        ['1990', '年', '在', 'nba']
    """
    kept = "".join(sign for sign in text.lower().strip() if sign not in _MARKS)
    return _MIXED.findall(kept)


def exact(predicted: str, answers: Sequence[str]) -> float:
    """1 where an answer is given word for word, else 0.

    Example:
        >>> exact("the Broncos", ["Denver Broncos", "Broncos."]), exact("", [])
        (1.0, 1.0)
    """
    if not answers:
        return float(not predicted.strip())
    return max(float(_same(predicted, answer)) for answer in answers)


def overlap(predicted: str, answers: Sequence[str]) -> float:
    """F1 of the words that answer and prediction share; of Chinese answers, of their longest common run.

    Example:
        >>> round(overlap("Denver Broncos won", ["the Denver Broncos"]), 3), overlap("在北京", ["北京"])
        (0.8, 0.8)
    """
    if not answers:
        return float(not predicted.strip())
    return max(_overlap(predicted, answer) for answer in answers)


def _same(predicted: str, answer: str) -> bool:
    read = characters if is_chinese(answer) else normalised
    return "".join(read(predicted)) == "".join(read(answer)) if read is characters else read(predicted) == read(answer)


def _overlap(predicted: str, answer: str) -> float:
    if is_chinese(answer):
        ours, true = characters(predicted), characters(answer)
        return harmonic(_longest_run(ours, true), len(ours), len(true))
    ours, true = normalised(predicted), normalised(answer)
    if not ours or not true:  # only an empty prediction has all words of an answer without words
        return float(ours == true)
    return harmonic((Counter(ours) & Counter(true)).total(), len(ours), len(true))


def _longest_run(ours: Sequence[str], true: Sequence[str]) -> int:
    """Length of the longest run of words that stands in both."""
    best, above = 0, [0] * (len(true) + 1)
    for word in ours:
        row = [0] * (len(true) + 1)
        for place, other in enumerate(true, 1):
            if word == other:
                row[place] = above[place - 1] + 1
                best = max(best, row[place])
        above = row
    return best
