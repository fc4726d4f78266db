# SPDX-License-Identifier: Apache-2.0
"""Pieces of text make what the tokenizer decodes from all tokens; stop strings and half characters are never shown."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from luthier.serve.writer import Writer


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    from luthier.models import load_tokenizer

    return load_tokenizer(str(tiny_llama), None, False)


def pieces(tokenizer, ids, **words):
    writer, found = Writer(tokenizer, **words), []
    for token in ids:
        found.append(writer.push(token))
        if writer.stopped:
            break
    return [*found, writer.finish()], writer


@given(ids=st.lists(st.integers(0, 299), max_size=30), strip=st.booleans())
def test_pieces_are_the_whole(tokenizer, ids, strip):
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    found, _ = pieces(tokenizer, ids, strip=strip)
    assert "".join(found) == (whole.strip() if strip else whole)


@given(
    text=st.text(alphabet="ab \n早🐈", max_size=20),
    stop=st.lists(st.text(alphabet="ab \n早", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_ends_before_the_first_stop(tokenizer, text, stop):
    # Of a stop inside another one the inner ends the text, as it is there first; the longer one began before it.
    assume(not any(one != other and one in other for one in stop for other in stop))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found, writer = pieces(tokenizer, ids, stop=stop, strip=False)
    places = [place for one in stop if (place := text.find(one)) >= 0]
    assert writer.stopped == bool(places)
    assert "".join(found) == (text[: min(places)] if places else text)


def test_a_character_is_shown_when_it_is_whole(tokenizer):
    ids = tokenizer("a🐈b", add_special_tokens=False)["input_ids"]
    assert len(ids) > 3  # the cat has several tokens
    found, _ = pieces(tokenizer, ids)
    assert [one for one in found if one] == ["a", "🐈", "b"]


def test_what_may_become_a_stop_waits(tokenizer):
    ids = tokenizer("xEND", add_special_tokens=False)["input_ids"]
    found, writer = pieces(tokenizer, ids, stop=("ENDE",))
    assert not writer.stopped
    assert "".join(found[:-1]) == "x"
    assert found[-1] == "END"
