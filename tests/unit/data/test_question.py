# SPDX-License-Identifier: Apache-2.0
"""Questions: windows of the context, an answer's two end tokens, and from tokens back to text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.data.encoders import bert, gpt, roberta

from luthier.core.errors import DataError
from luthier.core.tasks import Question
from luthier.data import prepare
from luthier.data.encoded import encode_texts
from luthier.data.kinds.question import span_of
from luthier.data.originals import originals
from luthier.data.vocabulary import vocabulary
from luthier.recipe.schema import Data

TOKENIZERS = {"bert": bert(), "roberta": roberta(), "gpt": gpt()}
CONTEXT = "The painter Nina lives in Rome (1990). Tom isn't unhappy."
WORDS = st.lists(st.sampled_from("Nina unbelievable 12.50 isn't 🐈 日本 a".split()), min_size=3, max_size=30)


def row(answer: str, question="Where does Nina live?", context=CONTEXT, start=None) -> dict:
    begin = context.index(answer) if start is None else start
    return {"question": question, "context": context, "answers": {"text": [answer], "answer_start": [begin]}}


def made(rows, write, tokenizer, **keys):
    data = Data(train=write(*rows), **({"refused_tolerance": 0.9, "doc_stride": 4} | keys))
    return prepare(data, tokenizer, which="train", kind="question")


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("answer", ["Rome", "1990", "Nina lives in", CONTEXT])
def test_an_answer_is_two_tokens_and_back(write, name, answer):
    tokenizer = TOKENIZERS[name]
    found = made([row(answer)], write, tokenizer)
    tree = found.rows.tree(0)
    segment = tree.segments[0]
    start, end = map(int, tree.targets)
    [original] = originals(found)
    assert original.span(0, start, end) == answer
    assert original.references == (answer,)
    assert segment.labels[start] == segment.labels[end] == 0
    texts = ("Where does Nina live?", CONTEXT)
    theirs = tokenizer(*texts) if name != "gpt" else tokenizer("\n".join(texts))
    assert segment.ids.tolist() == theirs["input_ids"]
    assert (None if segment.types is None else segment.types.tolist()) == theirs.get("token_type_ids")
    with pytest.raises(ValueError, match="are not of the context"):
        original.span(0, 0, end)


def test_only_the_context_can_answer(write):
    tokenizer = TOKENIZERS["bert"]
    segment = made([row("Rome")], write, tokenizer).rows.tree(0).segments[0]
    theirs = tokenizer("Where does Nina live?", CONTEXT).sequence_ids()
    assert (segment.labels >= 0).tolist() == [side == 1 for side in theirs]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(words=WORDS, data=st.data())
def test_spans_round_trip(name, words, data):
    context = " ".join(words)
    start = data.draw(st.integers(0, len(words) - 1))
    stop = data.draw(st.integers(start + 1, len(words)))
    answer = " ".join(words[start:stop])
    begin = len(" ".join(words[:start])) + (start > 0)
    example = Question(question="a test", context=context, answers=(answer,), starts=(begin,))
    [item] = encode_texts(vocabulary(TOKENIZERS[name]), [example.question], [context])
    first, last = span_of(example, item)
    begins, ends = item.characters(1)
    assert context[begins[first] : ends[last]].strip() == answer


def test_an_answer_inside_a_token_takes_the_whole_token(write):
    found = made([row("Ni")], write, TOKENIZERS["bert"])
    start, end = map(int, found.rows.tree(0).targets)
    [original] = originals(found)
    assert original.span(0, start, end).startswith("Ni")


def test_white_space_around_an_answer_is_left_aside(write):
    found = made([row(" Rome ")], write, TOKENIZERS["roberta"])
    [original] = originals(found)
    assert original.span(0, *map(int, found.rows.tree(0).targets)) == "Rome"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_windows_of_a_long_context(write, name):
    context = "a test and again " * 12 + "Nina lives in Rome" + " a quick brown fox" * 12
    found = made([row("Rome", context=context)], write, TOKENIZERS[name], max_length=48, doc_stride=16)
    account = found.ledger.accounts[0]
    trees = [found.rows.tree(place) for place in range(len(found.rows))]
    assert account.windows == len(trees) > 2
    assert all(len(tree) <= 48 for tree in trees)
    [original] = originals(found)
    held = [place for place, tree in enumerate(trees) if tree.targets != (0.0, 0.0)]
    assert 1 <= len(held) < len(trees)
    for place in held:
        assert original.span(place, *map(int, trees[place].targets)) == "Rome"
    spans = [(a, b) for window in original.windows for a, b in zip(window.begins, window.ends, strict=True) if a >= 0]
    seen = {char for a, b in spans for char in range(a, b)}
    assert seen >= {place for place, char in enumerate(context) if not char.isspace()}


def test_an_answer_that_no_window_holds_is_counted(write):
    long = " ".join(["nina"] * 40)
    found = made([row(long, context=long)], write, TOKENIZERS["bert"], max_length=24)
    assert all(found.rows.tree(place).targets == (0.0, 0.0) for place in range(len(found.rows)))
    assert "1 answers stand whole in no window" in found.ledger.accounts[0].told()[0]


def test_a_question_without_an_answer_points_at_the_first_token(write):
    empty = {"question": "Who?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}}
    found = made([empty], write, TOKENIZERS["bert"])
    assert found.rows.tree(0).targets == (0.0, 0.0)
    assert found.ledger.accounts[0].lost == 0


def test_answers_that_do_not_stand_there_are_refused(write):
    rows = [row("Rome"), row("Rome", start=3)]
    account = made(rows, write, TOKENIZERS["bert"]).ledger.accounts[0]
    assert account.refused["the answer does not stand where answer_start says"].rows[0].endswith(":2")


def test_a_question_that_leaves_no_room_is_refused(write):
    rows = [row("Rome"), row("Rome", question="who " * 30)]
    account = made(rows, write, TOKENIZERS["bert"], max_length=32, doc_stride=8).ledger.accounts[0]
    assert account.refused["longer than max_length, which leaves no room for windows"].count == 1


def test_a_file_that_changed_is_told(write):
    found = made([row("Rome")], write, TOKENIZERS["bert"])
    write(row("Nina", context="Nina was here"))
    with pytest.raises(DataError, match="other rows than when its tokens were made"):
        list(originals(found))


@pytest.mark.parametrize("answer", ["Rome", "Nina lives", "The painter", "unhappy"])
def test_decoders_of_every_kind_find_the_answer(write, any_tokenizer, answer):
    found = made([row(answer)], write, any_tokenizer)
    [original] = originals(found)
    assert answer in original.span(0, *map(int, found.rows.tree(0).targets))
    assert len(original.span(0, *map(int, found.rows.tree(0).targets))) <= len(answer) + 4


def test_tags_of_decoders_of_every_kind(write, any_tokenizer):
    words = "Nina lives in Rome , 日本 🐈 (1990)".split()
    file = write({"tokens": words, "tags": list("abcdefgh")})
    found = prepare(Data(train=file), any_tokenizer, which="train", kind="tagged")
    labels = found.rows.tree(0).segments[0].labels
    assert [found.labels.names[label] for label in labels if label >= 0] == list("abcdefgh")
