# SPDX-License-Identifier: Apache-2.0
"""From the columns of a file to the format that reads it."""

from __future__ import annotations

import pytest
from tests.unit.data.reading import messages, read, turns

from luthier.core import registry
from luthier.core.errors import DataError, RecipeError
from luthier.data.columns import choose

DETECTED = [
    ("alpaca", "instruction input output"),
    ("alpaca", "instruction input response"),
    ("alpaca", "question answer"),
    ("alpaca", "query response"),
    ("alpaca", "prompt response"),
    ("alpaca", "instruction output system history"),
    ("alpaca", "instruction context response category"),
    ("sharegpt", "id conversations"),
    ("sharegpt", "conversations system tools"),
    ("messages", "messages"),
    ("messages", "id messages tools"),
    ("prompt_completion", "prompt completion"),
    ("text", "text"),
    ("text", "text url timestamp"),
]

NOT_DETECTED = [
    "conversations chosen rejected",  # LLaMA-Factory's DPO
    "messages label",  # KTO: half of the answers are bad ones
    "prompt chosen rejected",
    "question response_j response_k",
    "instruction input response1 response2",
    "question std_answer class",
    "decoded text instruction id",  # Dolly-derived: the text is the answer
    "text category",
    "text label",
    "question answer response",  # two columns could be the answer
    "context question answers",
]


@pytest.mark.parametrize(("name", "columns"), DETECTED)
def test_detection(name, columns):
    assert choose("f", "auto", {}, columns.split()).format == name


@pytest.mark.parametrize("columns", NOT_DETECTED)
def test_no_guess_where_it_could_be_wrong(columns):
    with pytest.raises(DataError, match=r"f: no format is known for its columns: .*; formats: .*say how to read it"):
        choose("f", "auto", {}, columns.split())


def test_rows_for_another_objective_are_named():
    with pytest.raises(DataError, match="chosen and rejected: are these rows for another objective"):
        choose("f", "auto", {}, ["prompt", "chosen", "rejected"])


def test_a_csv_without_header_is_asked_about():
    with pytest.raises(DataError, match="does the file begin with a line of column names"):
        choose("f.csv", "auto", {}, ["A man is dancing.", "5.0"])


def test_two_formats_that_fit():
    with pytest.raises(DataError, match=r"fit messages and sharegpt; say which: add format:"):
        choose("f", "auto", {}, ["messages", "conversations"])


def test_columns_are_renamed():
    row = {"question": "q", "std_answer": "a", "class": "math"}
    assert turns(read(row, output="std_answer")) == [("user", "q"), ("assistant", "a")]
    reading = choose("f", "auto", {"output": "std_answer"}, list(row))
    assert reading.columns == {"instruction": "question", "output": "std_answer"}
    assert reading.unused == ("class",)


def test_a_renamed_column_goes_before_one_of_the_right_name():
    row = {"instruction": "old", "better": "new", "output": "a"}
    assert turns(read(row, instruction="better"))[0] == ("user", "new")


def test_a_column_that_is_not_there():
    with pytest.raises(DataError, match=r"f, columns\.output: there is no column 'anser'; did you mean 'answer'\?"):
        choose("f", "auto", {"output": "anser"}, ["question", "answer"])


def test_a_column_that_the_format_has_not():
    with pytest.raises(DataError, match=r"format alpaca has no column 'outpt'; did you mean 'output'\?"):
        choose("f", "alpaca", {"outpt": "answer"}, ["question", "answer"])


def test_a_named_format_without_its_columns():
    with pytest.raises(
        DataError, match=r"format alpaca needs the column output; the file has: instruction, b; name it"
    ):
        choose("f", "alpaca", {}, ["instruction", "b"])


def test_an_unknown_format():
    with pytest.raises(RecipeError, match=r"data\.train\.format: unknown name 'alpacca'; did you mean 'alpaca'\?"):
        choose("f", "alpacca", {}, ["a"], "data.train")


def test_a_named_format_is_not_held_back():
    assert turns(read(messages("user", "assistant") | {"label": True}, "messages"))[1][0] == "assistant"


@pytest.mark.parametrize("name", registry.entries("data.formats"))
def test_every_format_says_what_it_needs(name):
    entry = registry.get("data.formats", name)
    assert set(entry.REQUIRED) <= set(entry.COLUMNS)
    alternatives = getattr(entry, "ROWS", "plain") == "judged" or not entry.REQUIRED
    enough = entry.COLUMNS if alternatives else entry.REQUIRED
    assert entry.matches(frozenset(enough))
    assert not entry.matches(frozenset())
