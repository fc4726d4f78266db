# SPDX-License-Identifier: Apache-2.0
"""Each check on replies that are right, nearly right and wrong."""

from __future__ import annotations

import pytest

from luthier.core.errors import DataError
from luthier.evaluate.exact import CHECKS, Item, is_right, make_item, score


def item(check: str, answer, category: str = "") -> Item:
    return Item(messages=(), check=check, answer=answer, category=category)


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


def test_score_counts_and_tells_categories():
    items = [item("exact", "a", "x"), item("exact", "b", "y"), item("exact", "c", "y"), item("exact", "d", "y")]
    found = score(["a", "b", "no", "d"], items)
    assert (found.value, found.items, found.right) == (0.75, 4, (True, True, False, True))
    assert found.stderr == pytest.approx((0.75 * 0.25 / 3) ** 0.5)
    assert {name: (part.value, part.items) for name, part in found.by_category.items()} == {
        "x": (1.0, 1),
        "y": (2 / 3, 3),
    }
    assert found.to_json()["by_category"]["y"] == {"value": 2 / 3, "items": 3}


def test_a_cut_reply_is_wrong_even_if_it_holds_the_answer():
    items = [item("contains_all", ("dog",))] * 2
    assert score(["the dog and", "the dog"], items, [False, True]).right == (False, True)


def test_one_category_needs_no_table():
    assert score(["a"], [item("exact", "a", "x")]).by_category == {}
    assert score(["a"], [item("exact", "a", "x")]).to_json()["stderr"] is None
    assert "by_category" not in score(["a"], [item("exact", "a", "x")]).to_json()


def test_every_item_needs_a_reply():
    with pytest.raises(ValueError, match="zip"):
        score(["a"], [item("exact", "a")] * 2)


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
