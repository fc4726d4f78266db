# SPDX-License-Identifier: Apache-2.0
"""From replies to ratings: FastChat's rules with their oddities, and BELLE's share."""

from __future__ import annotations

import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.judge.rating import rating, share, verdict


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Rating: [[5]]", 5),
        ("Rating: [[7.5]]", 7.5),
        ("[[7.]]", 7.0),
        ("[[3]] no, [[9]]", 3),  # the first one counts
        ("[2] then [[9]]", 9),  # two brackets before one
        ("see [1]", 1),  # a citation becomes a score, as in FastChat
        ("[[8]", 8),
        ("[[11]]", 11),
        ("[[0]]", 0),
        ("[[05]]", 5),
        ("[[ 7 ]]", -1),
        ("[[7/10]]", -1),
        ("[[rating: 7]]", -1),
        ("[[-3]]", -1),
        ("7/10", -1),
        ("", -1),
        ("$ERROR$", -1),
    ],
)
def test_rating(reply, expected):
    found = rating(reply)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parity
@given(reply=st.text(alphabet="[]0123456789. ab", max_size=20))
def test_rating_is_the_published_rule(reply):
    match = re.search(r"\[\[(\d+\.?\d*)\]\]", reply) or re.search(r"\[(\d+\.?\d*)\]", reply)
    try:
        expected = ast.literal_eval(match.groups()[0]) if match else -1
    except SyntaxError:  # a leading zero
        expected = float(match.groups()[0])
    assert rating(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("[[A]]", "A"),
        ("[[B]] rather than [[A]]", "A"),
        ("[[C]], or [[B]]", "B"),
        ("[[C]]", "tie"),
        ("[A]", "error"),
        ("[[D]]", "error"),
        ("", "error"),
    ],
)
def test_verdict(reply, expected):
    assert verdict(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("得分: 0.8", 0.8),
        ("得分：1", 1.0),
        ("得分:0", 0.0),
        ("得分： 0.85分。理由：回答准确。", 0.85),
        ("**得分**：0.9\n理由：…", 0.9),
        ("【得分】0.7", 0.7),
        ("模型得分为0.5，因为……", 0.5),
        ("得分: 1/1", 1.0),
        ("得分: 1.0/1.0", 1.0),
        ("得分: 0.5/1.5", -1),
        ("得分: 0.5/", -1),
        ("得分: 0.5/1", 0.5),
        ("得分:\n0.6\n1. 理由", 0.6),
        ("得分: 8/10", -1),
        ("得分: 1/10", -1),
        ("得分: 80%", -1),
        ("得分: 8", -1),
        ("得分: 10", -1),
        ("得分: 满分", -1),
        ("0.8", -1),
        ("", -1),
    ],
)
def test_share(reply, expected):
    assert share(reply) == expected
