# SPDX-License-Identifier: Apache-2.0
"""BLEU of a whole corpus, to the numbers of sacrebleu with its defaults: 4-grams, exponential smoothing, 0 to 100.

Written here, not taken from sacrebleu: a page of code, where sacrebleu would be a dependency (with others of its own)
of every evaluation. The tokenisers are its `13a` and, where references are Chinese, `zh`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

from luthier.metrics._words import is_chinese

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ORDER = 4
_RULES = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),  # punctuation but . and ,
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),  # a period or comma unless a digit stands before it
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),  # ... or behind it
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash behind a digit
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_HAN = re.compile(
    "([\u2600-\u27bf\u2e80-\u312f\u31a0-\u31ef\u3200-\u4dbf\u4e00-\u9fbb\uf900-\ufad9\ufe10-\ufe4f\uff00-\uffef])"
)


def bleu(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU, 0 to 100; NaN of no texts.

    Args:
        predicted: A text for each item, [N].
        references: Right texts of each, one at least, [N].

    Raises:
        ValueError: Not one list of references for each text, or an empty one.

    References:
        Papineni et al., BLEU: a method for automatic evaluation of machine translation, 2002, section 2.3.
        Post, arXiv 1804.08771 (sacrebleu); Chen and Cherry, 2014, method 3 (smoothing).

    Example:
        >>> round(bleu(["the cat sat on the mat"], [["the cat is on the mat"]]), 2)
        37.99
    """
    return (
        bleu_of([sum(column) for column in zip(*counts(predicted, references), strict=True)]) if predicted else math.nan
    )


def counts(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[int]]:
    """What each item adds to the sums that BLEU is made of: right n-grams, n-grams (n = 1 to 4), words, nearest length.

    Args:
        predicted: As in :func:`bleu`.
        references: Likewise.

    Raises:
        ValueError: As in :func:`bleu`.
    """
    if len(predicted) != len(references) or not all(references):
        raise ValueError(f"{len(predicted)} texts for {len(references)} lists of references, none of them empty")
    chinese = sum(is_chinese(texts[0]) for texts in references) * 2 > len(references)
    cut = spaced if chinese else tokens
    found = []
    for text, right in zip(predicted, references, strict=True):
        hits, total = [], []
        ours, true = cut(text), [cut(one) for one in right]
        nearest = min((abs(len(one) - len(ours)), len(one)) for one in true)[1]
        for n in range(1, ORDER + 1):
            most: Counter[tuple[str, ...]] = Counter()
            for one in true:
                most |= _grams(one, n)
            grams = _grams(ours, n)
            hits.append((grams & most).total())
            total.append(grams.total())
        found.append([*hits, *total, len(ours), nearest])
    return found


def bleu_of(sums: Sequence[float]) -> float:
    """BLEU of the sums over items that :func:`counts` gives.

    Example:
        >>> round(bleu_of([5, 3, 1, 0, 6, 5, 4, 3, 6, 6]), 2)
        37.99
    """
    said, nearest = sums[2 * ORDER :]
    return _combined(sums[:ORDER], sums[ORDER : 2 * ORDER], said, nearest)


def _combined(hits: Sequence[float], total: Sequence[float], said: float, nearest: float) -> float:
    """Geometric mean of the precisions (the k-th zero among them is 1 / (2^k total)), with a penalty for brevity."""
    if not any(hits):
        return 0.0
    halved, logs = 1.0, 0.0
    for found, of in zip(hits, total, strict=True):
        if not of:
            return 0.0
        if not found:
            halved *= 2.0
        logs += math.log(100.0 * (found or 1.0 / halved) / of)
    brevity = math.exp(1.0 - nearest / said) if said < nearest else 1.0
    return brevity * math.exp(logs / ORDER)


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def tokens(text: str) -> list[str]:
    """sacrebleu's `13a`, after mteval-v13a.

    Example:
        >>> tokens("It costs $1,000.50, doesn't it?")
        ['It', 'costs', '$', '1,000.50', ',', "doesn't", 'it', '?']
    """
    line = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for name, sign in _ENTITIES:
        line = line.replace(name, sign)
    return _split(f" {line} ")


def spaced(text: str) -> list[str]:
    """sacrebleu's `zh`: Chinese characters and their punctuation one by one, the rest as :func:`tokens` has it.

    Example:
        >>> spaced("我爱BLEU，很好。")
        ['我', '爱', 'BLEU', '，', '很', '好', '。']
    """
    return _split(_HAN.sub(r" \1 ", text.strip()))


def _split(line: str) -> list[str]:
    rules: Sequence[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = _RULES
    for pattern, by in rules:
        line = pattern.sub(by, line)
    return line.split()
