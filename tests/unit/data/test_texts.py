# SPDX-License-Identifier: Apache-2.0
"""Texts that belong together, and sources with their targets: trees of a root and what stands below it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.unit.data.encoders import bert, gpt, t5

from luthier.core.errors import DataError, RecipeError
from luthier.data import Batches, eval_batches, prepare
from luthier.data.originals import originals
from luthier.recipe.schema import Data, Train

SUMMARY = {"source": ["a test .", "and again ."], "target": ["a test", "again", ""]}


def made(rows, write, tokenizer=None, *, kind="texts", task="FEATURE_EXTRACTION", **keys):
    data = Data(train=write(*rows), **({"refused_tolerance": 0.9} | keys))
    return prepare(data, tokenizer or bert(), which="train", kind=kind, task=task)


def translated(rows, write, tokenizer=None, **keys):
    return made(rows, write, tokenizer or t5(), kind="plain", task="SEQ_2_SEQ_LM", **keys)


def test_texts_stand_below_a_root_without_tokens(write):
    tokenizer = bert()
    row = {"anchor": "nina", "positive": "nina lives", "negative_1": "tom", "negative_2": "a bicycle"}
    tree = made([row], write, tokenizer).rows.tree(0)
    assert tree.parents == (-1, 0, 0, 0, 0)
    assert len(tree.segments[0]) == 0
    assert [segment.ids.tolist() for segment in tree.segments[1:]] == tokenizer(list(row.values()))["input_ids"]
    assert [grade if grade == grade else None for grade in tree.grades] == [None, None, 1.0, 0.0, 0.0]
    assert tree.scores == ()
    assert not any(segment.scored.any() for segment in tree.segments)


def test_a_scored_pair(write):
    tree = made([{"sentence1": "nina", "sentence2": "tom", "score": 3.8}], write).rows.tree(0)
    assert (tree.scores[1:], tree.parents) == ((3.8, 3.8), (-1, 0, 0))
    assert all(map(math.isnan, tree.grades))
    unscored = made([{"sentence1": "nina", "sentence2": "tom"}], write).rows.tree(0)
    assert (unscored.grades[2], unscored.scores) == (1.0, ())


def test_a_batch_is_so_many_rows(write):
    rows = [{"anchor": f"nina {n}", "positive": "nina lives"} for n in range(10)]
    found = made(rows, write)
    assert found.rows.judged
    batches = Batches(found.rows, Data(train="x"), Train(per_device_train_batch_size=4), 1)
    assert [[len(micro) for micro in batches.step(step)] for step in range(batches.total_steps)] == [[4], [4], [2]]
    assert batches.largest() == int(np.sort(found.rows.lengths)[-4:].sum())
    assert [len(batch) for batch in eval_batches(found.rows, Data(train="x"), Train())] == [8, 2]


def test_each_text_is_cut_alone(write):
    found = made([{"anchor": "nina " * 30, "positive": "tom"}], write, max_length=10)
    assert [len(segment) for segment in found.rows.tree(0).segments] == [0, 10, 4]
    account = found.ledger.accounts[0]
    assert (account.truncated, account.cut_tokens, account.answers) == (1, 52, 2)
    assert "2 texts" in account.told_kept()
    with pytest.raises(DataError, match="longer than max_length"):
        made([{"anchor": "nina " * 30, "positive": "tom"}], write, max_length=10, truncation="refuse")


def test_a_source_and_its_target(write):
    tokenizer = t5()
    found = translated([SUMMARY], write, tokenizer)
    tree = found.rows.tree(0)
    assert (tree.parents, tree.grades, tree.scores) == ((-1, 0), (), ())
    source, target = tree.segments
    assert source.ids.tolist() == tokenizer("a test . and again .")["input_ids"]
    assert target.ids.tolist() == tokenizer("a test")["input_ids"]
    assert (source.scored.any(), target.scored.all()) == (False, True)
    assert target.ids[-1] == tokenizer.eos_token_id
    assert not found.rows.judged
    assert found.rows.prompts.tolist() == [len(source)]
    [original] = originals(found)
    assert original.references == ("a test", "again")


@pytest.mark.parametrize(
    ("row", "source", "target"),
    [
        ({"instruction": "a test", "input": "and", "output": "again"}, "a test\nand", "again"),
        ({"instruction": "a", "output": "again", "system": "test"}, "test\na", "again"),
        ({"prompt": "a test", "completion": " again"}, "a test", " again"),
        ({"translation": {"en": "a test", "zh": "日本"}}, "a test", "日本"),
        ({"document": "a test", "summary": "again"}, "a test", "again"),
    ],
)
def test_rows_that_become_source_and_target(write, row, source, target):
    tokenizer = t5()
    tree = translated([row], write, tokenizer).rows.tree(0)
    assert [tokenizer.decode(segment.ids, skip_special_tokens=True) for segment in tree.segments] == [source, target]


def test_a_target_gets_an_end_where_the_tokenizer_adds_none(write):
    tokenizer = gpt()
    target = translated([SUMMARY], write, tokenizer).rows.tree(0).segments[1]
    assert target.ids.tolist() == [*tokenizer("a test")["input_ids"], tokenizer.eos_token_id]


def test_a_source_is_cut_to_what_the_target_leaves(write):
    row = {"source": "nina " * 40, "target": "a test"}
    tokenizer = t5()
    source, target = translated([row], write, tokenizer, max_length=20).rows.tree(0).segments
    assert len(source) + len(target) == 20
    assert source.ids[-1] == tokenizer.eos_token_id
    assert len(translated([row], write, tokenizer, max_length=40, max_prompt_length=12).rows.tree(0).segments[0]) == 12
    swapped = {"source": "a test", "target": "nina " * 40}
    account = translated([SUMMARY, swapped], write, tokenizer, max_length=20).ledger.accounts[0]
    assert account.refused["a target longer than max_length"].count == 1


def test_rows_without_a_source_are_refused(write):
    turns = [{"role": role, "content": "a test"} for role in ("user", "assistant", "user", "assistant")]
    rows = [{"messages": turns[:2]}, {"messages": turns}]
    account = translated(rows, write).ledger.accounts[0]
    assert (account.kept, account.refused["not one question and one answer"].count) == (1, 1)
    with pytest.raises(DataError, match="a text without a target"):
        translated([{"text": "a test"}], write)


def test_a_tokenizer_without_an_end_is_refused(write):
    with pytest.raises(DataError, match="it has no eos_token"):
        translated([SUMMARY], write, bert())
    with pytest.raises(RecipeError, match=r"data\.loss_on: 'all'; only conversations"):
        translated([SUMMARY], write, loss_on="all")


def test_sources_and_targets_are_packed_as_trees(write):
    found = translated([SUMMARY] * 30, write, max_length=64)
    batches = Batches(found.rows, Data(train="x", max_length=64), Train(per_device_train_batch_size=1), 1)
    micros = [micro for step in range(batches.total_steps) for micro in batches.step(step)]
    assert sum(map(len, micros)) == 30
    assert all(sum(map(len, micro)) <= 64 for micro in micros)
    assert len(micros) < 30


def test_the_same_rows_are_conversations_for_a_decoder(write, prepared, qwen):
    segment = prepared(write(SUMMARY), qwen).rows.tree(0).segments[0]
    assert qwen.decode(segment.ids[segment.scored]) == "a test<|im_end|>"
