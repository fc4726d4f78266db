# SPDX-License-Identifier: Apache-2.0
"""Metrics of texts: numbers of rouge_score 0.1.2, sacrebleu 2.6.0 and the scripts of SQuAD and CMRC, and by hand."""

from __future__ import annotations

import math

import pytest

from luthier.metrics.bleu import bleu, spaced, tokens
from luthier.metrics.rouge import common, rouge_l
from luthier.metrics.squad import characters, exact, normalised, overlap


def test_rouge_l_as_rouge_score_gives_it():
    found = rouge_l("The cat is sat down, isn't it? 42", ["the cat sat isn't well-known 42 4"])
    assert found == pytest.approx(0.6666666666666666, abs=1e-15)
    assert rouge_l("a b", ["c d", "a c"]) == 0.5
    assert rouge_l("", ["a"]) == rouge_l("a", []) == rouge_l("...", ["a"]) == 0.0


def naive_common(a, b):
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + naive_common(a[:-1], b[:-1])
    return max(naive_common(a[:-1], b), naive_common(a, b[:-1]))


@pytest.mark.parametrize(("a", "b"), [("abcab", "bcaba"), ("aab", "baa"), ("abc", "xyz"), ("aaaa", "aa")])
def test_common_subsequence(a, b):
    assert common(a, b) == naive_common(a, b)


def test_chinese_is_compared_by_characters():
    assert rouge_l("我爱北京天安门", ["我很爱北京"]) == pytest.approx(2 * 4 / (7 + 5))
    assert characters("《红楼梦》 by NBA。") == ["红", "楼", "梦", "by", "nba"]
    assert exact("北京。", ["北京"]) == 1.0
    # The longest common run is 北京 (2 of 4 and of 3 characters); a bag of characters would share three.
    assert overlap("北京在天", ["天北京"]) == pytest.approx(2 * 2 / (4 + 3))


# Scores of sacrebleu 2.6.0: corpus_bleu with its defaults, and with tokenize="zh".
SACREBLEU = [
    (["the cat sat on the mat"], [["the cat is on the mat"]], 37.99178428257963),
    (
        ["It costs $1,000.50, doesn't it?", "No."],
        [["It costs $1,000.50, does it not?", "That is $1,000.50."], ["No!", "No, no."]],
        49.55998647330271,
    ),
    (["我爱北京天安门。"], [["我很爱北京的天安门！"]], 27.98263237576258),
]


@pytest.mark.parametrize(("predicted", "references", "expected"), SACREBLEU)
def test_bleu_as_sacrebleu_gives_it(predicted, references, expected):
    assert bleu(predicted, references) == pytest.approx(expected, rel=1e-12)


def test_bleu_by_hand():
    # Precisions 4/5, 2/4, 1/3 and 0/2 -> 1/(2*2); 5 words for 6: brevity exp(1 - 6/5).
    mean = (4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25
    assert bleu(["a b c x d"], [["a b c d e f"]]) == pytest.approx(100 * math.exp(-0.2) * mean, rel=1e-12)
    assert bleu(["x"], [["y"]]) == 0.0
    assert bleu(["a"], [["a"]]) == 0.0  # no 2-gram at all
    assert math.isnan(bleu([], []))
    with pytest.raises(ValueError, match="none of them empty"):
        bleu(["a"], [[]])


def test_bleu_tokens():
    assert tokens("a &amp; b, e.g. 3.5-4") == ["a", "&", "b", ",", "e", ".", "g", ".", "3.5", "-", "4"]
    assert spaced("2020年NBA") == ["2020", "年", "NBA"]


def test_squad_as_its_script_has_it():
    assert normalised("An apple, the U.S. a-team!") == ["apple", "us", "ateam"]
    assert exact("The Denver Broncos!", ["Broncos", "denver broncos"]) == 1.0
    assert exact("Denver", ["Denver Broncos"]) == 0.0
    assert overlap("Denver Denver Broncos", ["Denver Broncos"]) == pytest.approx(2 * 2 / (3 + 2))
    assert overlap("a cat", ["dog", "cat"]) == 1.0
    assert overlap("the", ["the"]) == 1.0
    assert overlap("the cat", ["the"]) == 0.0


def test_questions_without_an_answer():
    assert exact("", []) == overlap("", []) == 1.0
    assert exact("Paris", []) == overlap("Paris", []) == 0.0
    assert exact("", ["Paris"]) == overlap("", ["Paris"]) == 0.0
