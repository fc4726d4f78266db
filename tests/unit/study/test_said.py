# SPDX-License-Identifier: Apache-2.0
"""Sentences as keys and values: the same keys, gaps and numbers in both languages, none missing, none left over."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path
from string import Formatter

import pytest

import luthier.study
from luthier.study.said import LANGUAGES, Said, as_data, in_language, said, templates

SOURCE = "\n".join(path.read_text("utf-8") for path in Path(luthier.study.__file__).parent.glob("*.py"))
LINE = said("methods", under=said("under", parts=[said("one_seed")]), parts=["a", said("gap_unseen"), "b"])


def test_both_languages_have_the_same_keys_gaps_and_numbers():
    first, second = (templates(code) for code in LANGUAGES)
    assert list(first) == list(second)
    for key in first:
        assert _gaps(first[key]) == _gaps(second[key]), key
        assert sorted(re.findall(r"\d+", first[key])) == sorted(re.findall(r"\d+", second[key])), key


def test_every_chinese_template_is_chinese():
    plain = {key for key, words in templates("zh").items() if not re.search(r"[\u3000-\u9fff\uff00-\uffef]", words)}
    assert plain == {"another_alpha", "limits_demo", "together"}


def test_every_template_is_used():
    starts = tuple(set(re.findall(r"said\(\s*f\"(\w+_)\{", SOURCE)))
    assert len(starts) > 5
    left_over = {key for key in templates("en") if f'"{key}"' not in SOURCE and not key.startswith(starts)}
    assert left_over == set()


def test_a_sentence_is_its_english_and_knows_what_it_is_made_of():
    assert LINE == "With one seed, a; , no difference seen; b."
    assert in_language(as_data(LINE), "zh") == "只用一个种子，a；，未见差异；b。"  # noqa: RUF001 - Chinese
    assert as_data(LINE)["values"]["under"] == {
        "key": "under", "values": {"parts": [{"key": "one_seed", "values": {}}]},
    }  # fmt: skip


def test_written_and_read_again_it_says_the_same():
    again = json.loads(json.dumps(as_data(LINE)))
    for language in LANGUAGES:
        assert in_language(again, language) == in_language(as_data(LINE), language)
    assert again["text"] == LINE
    assert json.dumps([LINE]) == json.dumps([str(LINE)])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda line: pickle.loads(pickle.dumps(line))])
def test_it_travels_between_processes(copied):
    found = copied(LINE)
    assert isinstance(found, Said)
    assert found == LINE
    assert as_data(found) == as_data(LINE)


def test_what_was_not_made_from_a_template_stays_a_text():
    assert as_data("As it is.") == "As it is."


def _gaps(words: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(words) if name}
