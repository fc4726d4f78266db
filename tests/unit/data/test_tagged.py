# SPDX-License-Identifier: Apache-2.0
"""Tagged words: the first token of each word carries its tag, in exactly one window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.data.encoders import bert, gpt, roberta

from luthier.core.errors import DataError, RecipeError
from luthier.core.tasks import Labels, Tagged
from luthier.data import eval_batches, prepare
from luthier.data.fill import Context
from luthier.data.kinds import tagged
from luthier.data.labelling import Numbers
from luthier.data.originals import originals
from luthier.data.vocabulary import vocabulary
from luthier.recipe.schema import Data, Train

TOKENIZERS = {"bert": bert(), "roberta": roberta(), "gpt": gpt()}
SENTENCE = {"tokens": "Nina lives in unbelievable Rome .".split(), "tags": "B-PER O O B-LOC I-LOC O".split()}
SAMPLES = ["Nina", "unbelievable", "12.50", "isn't", "🐈", "日本", "a", "New York", "(1990)"]
WORDS = st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=40)


def made(rows, write, tokenizer=None, **keys):
    data = Data(train=write(*rows), **({"refused_tolerance": 0.9, "doc_stride": 4} | keys))
    return prepare(data, tokenizer or bert(), which="train", kind="tagged")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_first_token_of_a_word_carries_its_tag(write, name):
    tokenizer = TOKENIZERS[name]
    found = made([SENTENCE], write, tokenizer)
    segment = found.rows.tree(0).segments[0]
    assert segment.ids.tolist() == tokenizer(" ".join(SENTENCE["tokens"]))["input_ids"]
    assert found.labels.names == ("B-LOC", "B-PER", "I-LOC", "O")
    assert [found.labels.names[label] for label in segment.labels if label >= 0] == SENTENCE["tags"]
    assert found.labels.counts == (1, 1, 1, 3)
    assert found.rows.scored.tolist() == [6]


def test_labels_are_those_of_transformers_word_ids(write):
    tokenizer = TOKENIZERS["bert"]
    segment = made([SENTENCE], write, tokenizer).rows.tree(0).segments[0]
    theirs = tokenizer(SENTENCE["tokens"], is_split_into_words=True)
    assert segment.ids.tolist() == theirs["input_ids"]
    words = theirs.word_ids()
    firsts = [place for place, word in enumerate(words) if word is not None and word != words[place - 1]]
    assert np.flatnonzero(segment.labels >= 0).tolist() == firsts


@pytest.mark.parametrize("name", TOKENIZERS)
@given(words=WORDS, max_length=st.integers(8, 24), data=st.data())
def test_every_word_is_labelled_once(name, words, max_length, data):
    stride = data.draw(st.integers(0, max_length - 5))
    names = tuple(map(str, range(40)))
    context = Context(
        data=Data(train="x", max_length=max_length, doc_stride=stride),
        tokenizer=TOKENIZERS[name],
        vocabulary=vocabulary(TOKENIZERS[name]),
        renderer=None,
        say=lambda _: None,
        numbers=Numbers(Labels(names=names)),
    )
    example = Tagged(words=tuple(words), tags=names[: len(words)])
    [rows] = tagged.rows(context, [example], tagged.tokens(context, tagged.texts(context, [example])))
    seen = [int(label) for row in rows for label in row.labels if label >= 0]
    lost = sum(row.lost for row in rows)
    assert len(seen) + lost == len(words)
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen)
    assert lost == 0
    assert all(len(row.ids) <= max_length for row in rows)
    assert all((row.labels >= 0).any() for row in rows)


def test_windows_have_one_name_and_are_counted(write):
    row = {"tokens": ["nina"] * 60, "tags": ["O", "B-PER"] * 30}
    found = made([row], write, max_length=20)
    account = found.ledger.accounts[0]
    assert (account.read, account.kept) == (1, 1)
    assert account.windows == len(found.rows) > 3
    assert account.labelled == sum(found.labels.counts) == 60
    assert len({found.rows.name(place) for place in range(len(found.rows))}) == 1
    assert f"1 of 1 rows, {len(found.rows)} windows" in account.told_kept()
    [original] = originals(found)
    assert original.trees == range(len(found.rows))
    words = [int(word) for window in original.windows for word in window.words if word >= 0]
    assert words == list(range(60))


def test_evaluations_keep_the_windows_of_a_row_in_order(write):
    """Short rows and last windows fill each other's bins otherwise, and an entity over two windows falls apart."""
    rows = [{"tokens": ["nina"] * count, "tags": ["O", "B-PER"] * (count // 2)} for count in (4, 40, 8, 26, 30)]
    found = made(rows, write, max_length=20)
    assert found.rows.windowed
    assert not made(rows, write, max_length=200).rows.windowed
    batches = eval_batches(found.rows, Data(train="x", max_length=20), Train(per_device_eval_batch_size=1))
    seen = [tree.segments[0].ids.tolist() for batch in batches for tree in batch]
    assert seen == [found.rows.tree(place).segments[0].ids.tolist() for place in range(len(found.rows))]


def test_words_that_become_no_token_are_counted(write):
    row = {"tokens": ["nina", "\u200d", "rome"], "tags": ["A", "B", "C"]}
    found = made([row], write)
    assert found.ledger.accounts[0].lost == 1
    assert "1 words have no token of their own" in "\n".join(found.ledger.accounts[0].told())
    assert found.labels.counts == (1, 0, 1)
    alone = made([SENTENCE, {"tokens": ["\u200d"], "tags": ["O"]}], write)
    assert list(alone.ledger.accounts[0].refused) == ["no token of the words"]


def test_numbers_are_named_by_the_recipe(write):
    row = {"tokens": ["a", "test"], "ner_tags": [1, 0]}
    found = made([row], write, labels=("O", "B-PER"))
    assert found.labels == Labels(names=("O", "B-PER"), counts=(1, 1))
    assert made([row], write).labels.names == ("0", "1")
    with pytest.raises(DataError, match="unknown tag"):
        made([{"tokens": ["a"], "ner_tags": [2]}], write, labels=("O", "B-PER"))


def test_a_stride_without_room_is_refused(write):
    with pytest.raises(RecipeError, match=r"data.doc_stride: 64, with data.max_length 64; less"):
        made([SENTENCE], write, max_length=64, doc_stride=64)
    long = {"tokens": ["nina"] * 60, "tags": ["O", "B"] * 30}
    with pytest.raises(DataError, match="leaves no room for windows"):
        made([long], write, max_length=20, doc_stride=18)
    with pytest.raises(DataError, match="longer than max_length"):
        made([long], write, max_length=20, truncation="refuse")
