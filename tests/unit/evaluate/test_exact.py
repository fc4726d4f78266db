# SPDX-License-Identifier: Apache-2.0
"""Each check on replies that are right, nearly right and wrong."""

from __future__ import annotations

import pytest

from luthier.core.errors import DataError
from luthier.evaluate.exact import CHECKS, ExactItem, is_right, make_item


def item(check: str, answer, category: str = "") -> ExactItem:
    return ExactItem(messages=(), check=check, answer=answer, category=category)


@pytest.mark.parametrize(
    ("check", "answer", "reply", "right"),
    [
        ("exact", "Paris", " Paris\n", True),
        ("exact", "Paris", "paris", False),
        ("exact", "Paris", "Paris.", False),
        ("exact", "", "", True),
        ("one_of", ("Paris", "Lyon"), "Lyon", True),
        ("one_of", ("Paris", "Lyon"), "Par", False),
        ("contains_all", (" dog ", " garden."), "A dog is in the garden.", True),
        ("contains_all", (" dog ", " garden."), "A dogs is in the garden.", False),
        ("number", "21", "7 x 3 is 21.", True),
        ("number", "21", "21 is 7 x 3", False),
        ("number", "1000", "It is 1,000", True),
        ("number", "-4", "that makes -4", True),
        ("number", "4", "none", False),
    ],
)
def test_checks(check, answer, reply, right):
    assert is_right(reply, item(check, answer)) is right


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"check": "exakt", "answer": "a"}, "unknown check 'exakt'; did you mean 'exact'?"),
        ({"check": "exact", "answer": ["a"]}, "a text, as the check 'exact' needs"),
        ({"check": "one_of", "answer": "a"}, "a list of texts"),
        ({"check": "contains_all", "answer": []}, "a list of texts"),
        ({}, "answer None"),
    ],
)
def test_wrong_rows_say_what_is_wrong(row, said):
    with pytest.raises(DataError, match="file:3") as error:
        make_item(row, (), "file:3")
    assert said in str(error.value)


def test_output_stands_for_answer():
    assert make_item({"output": "x"}, (), "f").answer == "x"


def test_a_row_may_belong_to_a_group():
    assert make_item({"output": "x", "group": 0}, (), "f").group == "0"  # a number is a name too
    assert make_item({"output": "x", "group": None}, (), "f").group == ""


def test_checks_say_what_they_do():
    assert all(check.text for check in CHECKS.values())
