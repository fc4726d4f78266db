# SPDX-License-Identifier: Apache-2.0
"""Windows: those of the tokenizers library; every token is seen, and seen best in one of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.data.encoders import bert, gpt, roberta

from luthier.data.encoded import Encoded, encode_texts, shortened
from luthier.data.vocabulary import vocabulary
from luthier.data.windows import best_seen, windows

WORDS = st.lists(st.sampled_from("nina lives in rome unbelievable 12.50 (1990) isn't a".split()), min_size=1)
KINDS = {"bert": bert(), "roberta": roberta(), "gpt": gpt()}


@given(count=st.integers(1, 60), room=st.integers(2, 20), data=st.data())
def test_windows_cover_every_token_and_share_the_stride(count, room, data):
    stride = data.draw(st.integers(0, room - 1))
    laid = windows(count, room, stride)
    assert laid[0][0] == 0
    assert laid[-1][1] == count
    for (_, end), (start, after) in pairwise(laid):
        assert end - start == stride
        assert after > end
    assert all(stop - start == room for start, stop in laid[:-1])


@given(count=st.integers(1, 60), room=st.integers(2, 20), data=st.data())
def test_a_token_is_seen_best_in_one_window(count, room, data):
    laid = windows(count, room, data.draw(st.integers(0, room - 1)))
    owners = best_seen(np.arange(count), laid)
    for place, owner in enumerate(owners.tolist()):
        context = [min(place - start, stop - 1 - place) for start, stop in laid]
        assert context[owner] == max(context) >= 0
        assert owner == context.index(max(context))


def test_a_stride_as_long_as_a_window_is_refused():
    with pytest.raises(ValueError, match="cannot share 5"):
        windows(10, 5, 5)


@pytest.mark.parametrize("name", ["bert", "roberta"])
@given(first=WORDS, second=WORDS, room=st.integers(3, 12), data=st.data())
def test_windows_of_a_context_are_those_of_transformers(name, first, second, room, data):
    tokenizer = KINDS[name]
    question, context = " ".join(first), " ".join(second)
    [item] = encode_texts(vocabulary(tokenizer), [question], [context])
    inside = np.flatnonzero(item.sides == 1)
    stride = data.draw(st.integers(0, room - 1))
    most = len(item.ids) - len(inside) + room
    ours = [
        [*item.ids[: inside[0]].tolist(), *item.ids[inside[a:b]].tolist(), *item.ids[inside[-1] + 1 :].tolist()]
        for a, b in windows(len(inside), room, stride)
    ]
    keys = {"truncation": "only_second", "max_length": most, "stride": stride, "return_overflowing_tokens": True}
    assert ours == tokenizer(question, context, **keys)["input_ids"]


@pytest.mark.parametrize("name", ["bert", "roberta"])
@given(first=WORDS, second=st.none() | WORDS, most=st.integers(4, 30))
def test_what_is_cut_from_a_pair_is_what_transformers_cuts(name, first, second, most):
    tokenizer = KINDS[name]
    texts = [" ".join(words) for words in (first, second) if words is not None]
    [item] = encode_texts(vocabulary(tokenizer), texts[:1], texts[1:] or None)
    kept = shortened(item, most)
    theirs = tokenizer(*texts, truncation="longest_first", max_length=max(most, 4 if len(texts) > 1 else 2))
    if len(kept):
        assert item.ids[kept].tolist() == theirs["input_ids"]
        if tokenizer is KINDS["bert"]:
            assert item.types[kept].tolist() == theirs["token_type_ids"]


@given(first=WORDS, second=WORDS)
def test_without_a_template_a_line_break_stands_between_two_texts(first, second):
    words = vocabulary(KINDS["gpt"])
    texts = " ".join(first), " ".join(second)
    [item] = encode_texts(words, texts[:1], texts[1:])
    assert isinstance(item, Encoded)
    assert words.backend.decode(item.ids.tolist()) == "\n".join(texts)
    begins, ends = item.characters(1)
    assert "".join(texts[1][a:b] for a, b in zip(begins, ends, strict=True)) == texts[1].replace(" ", "")


def test_a_text_that_is_not_unicode_is_a_fault_of_its_own():
    good, bad, pair = encode_texts(vocabulary(bert()), ["a test", "\ud83d", "a"], [None, None, "test"])
    assert len(good.ids) == len(pair.ids) - 1 > 0
    assert "not Unicode" in str(bad)
