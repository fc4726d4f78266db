# SPDX-License-Identifier: Apache-2.0
"""Texts and pairs with labels: from rows to a segment and its targets."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.data.encoders import bert, gpt, roberta

from luthier.core.errors import DataError, RecipeError
from luthier.core.tasks import Labels
from luthier.data import prepare
from luthier.recipe.schema import Data

MOODS = [{"text": f"a test of {word}", "label": label} for word, label in (("nina", "b"), ("rome", "a"), ("tom", "b"))]
PAIRS = [{"sentence1": "nina lives", "sentence2": "in rome", "label": n % 3} for n in range(6)]


def made(rows, write, tokenizer=None, *, which="train", held_out=(), labels=None, problem=None, names=(), **keys):
    keys |= {"labels": names}
    given = {"eval": write(*held_out, name="eval.jsonl")} if held_out else {}
    data = Data(train=write(*rows), **given, **({"refused_tolerance": 0.9} | keys))
    return prepare(data, tokenizer or bert(), which=which, kind="labelled", labels=labels, problem=problem)


def targets(found) -> list[tuple[float, ...]]:
    return [found.rows.tree(row).targets for row in range(len(found.rows))]


def test_a_text_is_one_segment_with_the_tokenizers_special_tokens(write):
    tokenizer = bert()
    found = made(MOODS, write, tokenizer)
    assert found.labels == Labels(names=("a", "b"), counts=(1, 2))
    assert targets(found) == [(1.0,), (0.0,), (1.0,)]
    tree = found.rows.tree(0)
    assert tree.segments[0].ids.tolist() == tokenizer("a test of nina")["input_ids"]
    assert not tree.segments[0].scored.any()
    assert tree.segments[0].labels is tree.segments[0].types is None
    assert found.rows.scored.tolist() == [1, 1, 1]  # one thing each to learn from
    assert not found.rows.judged


@pytest.mark.parametrize("tokenizer", [bert(), roberta()], ids=["bert", "roberta"])
def test_a_pair_follows_the_tokenizers_template(write, tokenizer):
    theirs = tokenizer("nina lives", "in rome")
    segment = made(PAIRS, write, tokenizer).rows.tree(0).segments[0]
    assert segment.ids.tolist() == theirs["input_ids"]
    assert (None if segment.types is None else segment.types.tolist()) == theirs.get("token_type_ids")


def test_integers_keep_their_order(write):
    found = made([{"text": "a", "label": n} for n in (10, 2, 0, 2)], write)
    assert found.labels == Labels(names=("0", "2", "10"), counts=(1, 2, 1))
    assert targets(found) == [(2.0,), (1.0,), (0.0,), (1.0,)]


def test_the_recipe_names_the_classes(write):
    found = made([{"text": "a", "label": n} for n in (1, 0)], write, labels=None, **{"refused_tolerance": 0.1})
    assert targets(found) == [(1.0,), (0.0,)]
    data = Data(train=write({"text": "a", "label": 1}, {"text": "a", "label": "no"}), labels=("no", "yes"))
    named = prepare(data, bert(), which="train", kind="labelled")
    assert named.labels == Labels(names=("no", "yes"), counts=(1, 1))
    assert targets(named) == [(1.0,), (0.0,)]


def test_lists_are_several_labels(write):
    rows = [{"text": "a", "labels": labels} for labels in (["x", "z"], [], ["y"])]
    found = made(rows, write)
    assert found.labels == Labels(names=("x", "y", "z"), counts=(1, 1, 1), problem="multi_label_classification")
    assert targets(found) == [(1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0)]


def test_zeros_and_ones_for_each_class_where_the_objective_says_so(write):
    rows = [{"text": "a", "labels": labels} for labels in ([0.0, 1.0], [1.0, 1.0])]
    found = made(rows, write, problem="multi_label_classification")
    assert found.labels.names == ("0", "1")
    assert targets(found) == [(0.0, 1.0), (1.0, 1.0)]
    assert made(rows, write).labels.problem == "regression"


def test_fractions_are_values(write):
    found = made([{"text": "a", "score": value} for value in (4.5, 3, 0.25)], write)
    assert found.labels == Labels(names=("value",), problem="regression")
    assert targets(found) == [(4.5,), (3.0,), (0.25,)]
    several = made([{"text": "a", "labels": [0.5, 2.0]}, {"text": "b", "labels": [1.5]}], write)
    assert several.labels.names == ("value_0", "value_1")
    assert list(several.ledger.accounts[0].refused) == ["not as many values as others have"]


def test_integers_are_values_where_the_objective_says_so(write):
    found = made([{"text": "a", "label": n} for n in (3, 1)], write, problem="regression")
    assert targets(found) == [(3.0,), (1.0,)]
    three = [{"text": "a", "label": n} for n in (3.0, 1.0)]
    classes = made(three, write, labels=Labels(names=("1", "3")))
    assert targets(classes) == [(1.0,), (0.0,)]


def test_whole_values_are_classes_where_the_objective_says_so(write):
    """As pandas writes integers of which some are missing."""
    rows = [{"text": "a", "label": n} for n in (10.0, 2.0, 2.0)]
    found = made(rows, write, problem="single_label_classification")
    assert found.labels == Labels(names=("2", "10"), counts=(2, 1))
    assert targets(found) == [(1.0,), (0.0,), (0.0,)]


def test_integers_for_each_class_are_not_read_as_classes(write):
    rows = [{"text": "a", "labels": labels} for labels in ([0, 1, 0], [1, 1, 0])]
    with pytest.raises(DataError, match=r"no row has a label \(2 rows: labels names a class twice; 0 or 1 for each"):
        made(rows, write)


def test_rows_to_evaluate_on_have_the_labels_of_the_training_rows(write):
    held_out = [{"text": "a", "label": label} for label in ("b", "c", "a")]
    train = made(MOODS, write, held_out=held_out)
    for labels in (train.labels, None):
        found = made(MOODS, write, which="eval", held_out=held_out, labels=labels)
        assert found.labels.names == ("a", "b")
        assert targets(found) == [(1.0,), (0.0,)]
        assert {k: v.rows for k, v in found.ledger.accounts[0].refused.items()} == {
            "unknown label": [found.rows.name(0).replace(":1", ":2")]
        }


def test_one_label_is_nothing_to_learn(write):
    with pytest.raises(DataError, match=r"every row is labelled 'a'; two labels or more"):
        made([{"text": "x", "label": "a"}] * 3, write)
    with pytest.raises(DataError, match=r"data\.labels: one name, 'a'; two or more"):
        made(MOODS, write, names=("a",))


def test_too_long_rows_are_cut_or_refused(write):
    long = [{"text": "nina " * 40, "label": n % 2} for n in range(2)]
    found = made(long, write, max_length=16)
    account = found.ledger.accounts[0]
    segment = found.rows.tree(0).segments[0]
    assert (len(segment), account.truncated, account.kept) == (16, 2, 2)
    assert segment.ids[[0, -1]].tolist() == [2, 3]  # [CLS] and [SEP] stay
    with pytest.raises(DataError, match="longer than max_length"):
        made(long, write, max_length=16, truncation="refuse")


def test_texts_without_a_token_are_refused(write):
    account = made([*MOODS, {"text": "\u200d\u0007", "label": "a"}], write).ledger.accounts[0]
    assert account.refused["no token of the text"].rows[0].endswith(":4")


@pytest.mark.parametrize("problem", [None, "regression"])
def test_labels_and_problem_are_part_of_the_key(write, problem):
    rows = [{"text": "a", "label": n} for n in (2, 1)]
    words = bert()
    one, other = made(rows, write, words), made(rows, write, words, problem=problem)
    assert (one.digest() == other.digest()) is (problem is None)


def test_keys_of_conversations_are_refused(write):
    for key, value in {"loss_on": "all", "system": "x", "chat_template": "chatml", "max_prompt_length": 9}.items():
        with pytest.raises(RecipeError, match=f"data.{key}"):
            made(MOODS, write, **{key: value})
    with pytest.raises(RecipeError, match=r"data\.labels: 'a' twice"):
        made(MOODS, write, **{"refused_tolerance": 0.5}) and prepare(
            Data(train=write(*MOODS), labels=("a", "a")), bert(), which="train", kind="labelled"
        )


def test_a_decoder_reads_the_text_as_it_stands(write):
    tokenizer = gpt()
    found = made(PAIRS, write, tokenizer)
    assert tokenizer.decode(found.rows.tree(0).segments[0].ids) == "nina lives\nin rome"


def test_two_cls_are_refused_at_once(write):
    with pytest.raises(DataError, match=r"rows.jsonl:1: two BOS tokens at the start: '\[CLS\]' twice"):
        made([{"text": "[CLS] nina", "label": "a"}, {"text": "b", "label": "b"}], write)


def test_short_texts_are_packed(write):
    from luthier.data import Batches
    from luthier.recipe.schema import Train

    found = made(MOODS * 20, write, max_length=64)
    batches = Batches(found.rows, Data(train="x", max_length=64), Train(per_device_train_batch_size=1), 1)
    sizes = [sum(map(len, micro)) for step in range(batches.total_steps) for micro in batches.step(step)]
    assert max(sizes) <= 64
    assert sum(sizes) == int(np.sum(found.rows.lengths))
    assert batches.total_steps < 12


def test_a_store_has_the_arrays_that_its_rows_need(write):
    alone, pairs = made(MOODS, write), made(PAIRS, write)
    assert [set(found.rows.stores[0].told) for found in (alone, pairs)] == [{"targets"}, {"targets", "types"}]
    assert set(made(PAIRS, write, roberta()).rows.stores[0].told) == {"targets"}
    assert alone.rows.stores[0].branches == {}


def test_the_digest_covers_labels(write):
    words = bert()  # two of them may number their pieces differently
    one = made(MOODS, write, words)
    other = made([row | {"label": "ab"[row["label"] == "a"]} for row in MOODS], write, words)
    renamed = made([row | {"label": {"a": "c", "b": "d"}[row["label"]]} for row in MOODS], write, words)
    assert len({found.digest() for found in (one, other, renamed)}) == 3
    assert made(MOODS, write, words).digest() == one.digest()
