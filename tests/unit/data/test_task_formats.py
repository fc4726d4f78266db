# SPDX-License-Identifier: Apache-2.0
"""Formats of rows with labels, tags, answers and texts that belong together: detection and reading."""

from __future__ import annotations

import math

import pytest

from luthier.core.errors import DataError
from luthier.core.tasks import Labelled, Question, Tagged, Texts
from luthier.data.columns import choose
from luthier.data.faults import RowFault

DETECTED = [
    ("labelled", "classification", "text label"),
    ("labelled", "classification", "label sentence"),
    ("labelled", "classification", "text category"),
    ("labelled", "classification", "sentence1 sentence2 label idx"),
    ("labelled", "classification", "premise hypothesis label"),
    ("labelled", "classification", "question1 question2 label"),
    ("labelled", "classification", "question sentence label"),
    ("labelled", "classification", "question label"),
    ("labelled", "classification", "text label score"),
    ("tagged", "tagged", "tokens ner_tags id"),
    ("tagged", "tagged", "words labels"),
    ("tagged", "tagged", "tokens column_2 tags"),
    ("question", "squad", "id title context question answers"),
    ("question", "squad", "context question answer answer_start"),
    ("texts", "pairs", "anchor positive"),
    ("texts", "pairs", "query positive negative"),
    ("texts", "pairs", "query pos neg"),
    ("texts", "pairs", "anchor positive negative_1 negative_2"),
    ("texts", "pairs", "sentence1 sentence2 score"),
    ("texts", "pairs", "sentence1 sentence2"),
    ("texts", "pairs", "question answer"),
    ("plain", "source_target", "source target title"),
    ("plain", "source_target", "document summary"),
    ("plain", "source_target", "article highlights id"),
    ("plain", "source_target", "text summary"),
    ("plain", "source_target", "translation"),
    ("plain", "alpaca", "question answer"),
    (None, "alpaca", "question answer"),
    (None, "classification", "label sentence"),
    (None, "squad", "id context question answers"),
    (None, "tagged", "tokens tags"),
]
NOT = [
    ("labelled", "prompt completion label"),
    ("labelled", "sentence review label"),
    ("question", "context question answer"),
    ("texts", "question context answers"),
    ("plain", "text category"),
    (None, "sentence1 sentence2 score"),
]


@pytest.mark.parametrize(("kind", "name", "columns"), DETECTED)
def test_detection(kind, name, columns):
    assert choose("f", "auto", {}, columns.split(), kind=kind).format == name


@pytest.mark.parametrize(("kind", "columns"), NOT)
def test_no_guess_where_it_could_be_wrong(kind, columns):
    with pytest.raises(DataError, match=r"no format is known|fit classification and pairs; say which"):
        choose("f", "auto", {}, columns.split(), kind=kind)


def read(row: dict, kind, **columns):
    reading = choose("f", "auto", columns, list(row), kind=kind)
    return reading.read(row, reading.columns)


@pytest.mark.parametrize(
    ("label", "labels"),
    [
        ("a", ("a",)),
        (" a ", ("a",)),
        (3, ("3",)),
        (True, ("true",)),
        (2.5, (2.5,)),
        (["a", "b"], ("a", "b")),
        ([1, 0], ("1", "0")),
        ([], ()),
        ([0.5, 1], (0.5, 1.0)),
    ],
)
def test_labels(label, labels):
    assert read({"text": "x", "label": label}, "labelled") == Labelled(text="x", labels=labels)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"text": "x", "label": None}, "label is no name or number .null"),
        ({"text": "x", "label": " "}, "empty label"),
        ({"text": "x", "label": -1}, "label is below 0: a row without a label"),
        ({"text": "x", "label": math.nan}, "label is not finite"),
        ({"text": "x", "label": ["a", 0.5]}, "label holds names and values"),
        ({"text": " ", "label": 1}, "empty text"),
        ({"premise": "x", "hypothesis": "", "label": 1}, "empty text"),
        ({"text": 3, "label": 1}, "text is not text .a number"),
    ],
)
def test_rows_that_cannot_be_labelled(row, why):
    with pytest.raises(RowFault, match=why):
        read(row, "labelled")


def test_a_pair_and_renamed_columns():
    row = {"a": "x", "b": "y", "klass": 1}
    assert read(row, "labelled", text="a", pair="b", labels="klass") == Labelled(text="x", pair="y", labels=("1",))


def test_tags():
    row = {"tokens": ["a", "b"], "ner_tags": [0, "B-X"]}
    assert read(row, "tagged") == Tagged(words=("a", "b"), tags=("0", "B-X"))


@pytest.mark.parametrize(
    ("words", "tags", "why"),
    [
        (["a"], ["O", "O"], "not as many tags as words .2 for 1"),
        ([], [], "no words"),
        (["a", 3], ["O", "O"], "a word is not text"),
        (["a"], [None], "a tag is no name or number .null"),
        (["a"], [-100], "a tag is no name or number"),
        ("a b", ["O"], "tokens is not a list .text"),
    ],
)
def test_words_that_cannot_be_tagged(words, tags, why):
    with pytest.raises(RowFault, match=why):
        read({"tokens": words, "tags": tags}, "tagged")


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["b", "c"], "answer_start": [1, 2]},
        [{"text": "b", "answer_start": 1}, {"text": "c", "answer_start": 2, "id": "7"}],
    ],
)
def test_answers(answers):
    row = {"id": 7, "question": "q", "context": "abc", "answers": answers}
    question = Question(question="q", context="abc", answers=("b", "c"), starts=(1, 2), name="7")
    assert read(row, "question") == question


def test_one_answer_in_columns_of_its_own_and_none():
    row = {"question": "q", "context": "abc", "answer": "b", "answer_start": "1"}
    assert read(row, "question").starts == (1,)
    assert read(row | {"answer": None}, "question").answers == ()
    assert (
        read({"question": "q", "context": "abc", "answers": {"text": [], "answer_start": []}}, "question").starts == ()
    )


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"text": ["b"], "answer_start": []}, "not as many answer_start as answers"),
        ({"text": [3], "answer_start": [1]}, "an answer is not text with its answer_start"),
        ({"text": [" "], "answer_start": [1]}, "empty answer"),
        (["b"], "answers is not a list of answers with answer_start"),
        ("b", "answers is not answers with answer_start"),
    ],
)
def test_answers_that_cannot_be_used(answers, why):
    with pytest.raises(RowFault, match=why):
        read({"question": "q", "context": "abc", "answers": answers}, "question")


def test_pairs():
    row = {"query": "a", "pos": ["b", "c"], "neg": ["d"]}
    found = read(row, "texts")
    assert (found.texts, found.grades[1:], found.score) == (("a", "b", "c", "d"), (1.0, 1.0, 0.0), None)
    scored = read({"sentence1": "a", "sentence2": "b", "similarity": "4.5"}, "texts")
    assert isinstance(scored, Texts)
    assert scored.score == 4.5


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"anchor": "a", "positive": []}, "no positive"),
        ({"anchor": "a", "positive": ""}, "empty text"),
        ({"anchor": None, "positive": "b"}, "anchor is not text .null"),
        ({"sentence1": "a", "sentence2": "b", "score": "x"}, "score is not a number"),
    ],
)
def test_texts_that_cannot_be_used(row, why):
    with pytest.raises(RowFault, match=why):
        read(row, "texts")


def test_a_translation_the_other_way_round():
    row = {"translation": {"en": "a", "zh": "b"}}
    found = read(row, "plain", source="translation.zh", target="translation.en")
    assert [message.content for message in found.messages] == ["b", "a"]
    with pytest.raises(RowFault, match=r"no column translation\.de"):
        read(row, "plain", source="translation.de", target="translation.en")
