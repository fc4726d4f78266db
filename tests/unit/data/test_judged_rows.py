# SPDX-License-Identifier: Apache-2.0
"""Judged rows from the file to the step: store, ledger, digest, batches, mismatched answers."""

from __future__ import annotations

import math
import sys

import pytest
from tests.unit.data.judged_pairs import PAIRS, flat

from luthier.core.errors import DataError, RecipeError
from luthier.data import prepare
from luthier.recipe.schema import Data


def texts(tokenizer, tree) -> list[str]:
    return [tokenizer.decode(segment.ids) for segment in tree.segments]


def test_a_pair_is_a_tree(qwen, pairs):
    tree = pairs.rows.tree(1)
    assert texts(qwen, tree) == [
        "<|im_start|>user\nWhat is 1 + 2? Think<|im_end|>\n<|im_start|>assistant\n",
        *("It is 3.<|im_end|>\n", "No!<|im_end|>\n"),
    ]
    assert tree.parents == (-1, 0, 0)
    assert math.isnan(tree.grades[0])
    assert (tree.grades[1:], tree.scores) == ((1.0, 0.0), ())
    assert tree.row.endswith("rows.jsonl:2")
    assert [segment.scored.sum() for segment in tree.segments] == [
        0,
        len(tree.segments[1]) - 1,
        len(tree.segments[2]) - 1,
    ]


def test_lengths_are_those_of_the_trees(pairs):
    rows = pairs.rows
    trees = [rows.tree(i) for i in range(len(rows))]
    assert rows.judged
    assert rows.lengths.tolist() == [len(tree) for tree in trees]
    assert rows.scored.tolist() == [sum(part.scored.sum() for part in tree.segments) for tree in trees]
    assert rows.prompts.tolist() == [len(tree.segments[0]) for tree in trees]
    assert rows.first_answers.tolist() == [len(tree.segments[1]) for tree in trees]
    assert rows.answers.tolist() == [2] * 9
    with pytest.raises(IndexError):
        rows.tree(9)


def test_several_sources_with_and_without_scores(write, prepared):
    scored = write(
        {"prompt": "Q:", "answers": [" a", " b", " c"], "ranks": [1, 2, 2], "scores": [9, 8, 8]}, name="b.jsonl"
    )
    rows = prepared(
        [write(*PAIRS[:2]), scored, write({"prompt": "Q:", "completion": " a", "label": 0}, name="c.jsonl")]
    ).rows
    assert rows.answers.tolist() == [2, 2, 3, 1]
    tree = rows.tree(2)
    assert tree.grades[1:] == (-1.0, -2.0, -2.0)
    assert tree.scores[1:] == (9.0, 8.0, 8.0)
    assert len(tree.scores) == len(tree.segments) == 4
    assert rows.tree(3).grades[1:] == (0.0,)
    assert rows.prompts.tolist() == [len(rows.tree(i).segments[0]) for i in range(4)]


def test_one_kind_of_rows(write, prepared):
    with pytest.raises(DataError, match=r"data\.train: rows of different kinds: judged, plain; one kind a run"):
        prepared([write(*PAIRS), write({"instruction": "q", "output": "a"}, name="sft.jsonl")])


def test_the_ledger_counts_examples_answers_and_refusals(write, prepared, said):
    same = {"instruction": "q", "chosen": "x", "rejected": "x"}
    long = {"instruction": "q", "chosen": "x" * 300, "rejected": "y"}
    cut = {"instruction": "Q " * 90, "chosen": "x", "rejected": "y"}
    found = prepared(write(*PAIRS, same, long, cut), max_length=96, refused_tolerance=0.5)
    account = found.ledger.accounts[0]
    assert (account.rows, account.read, account.kept, account.answers, account.truncated) == (12, 12, 10, 20, 1)
    assert {reason: refusal.rows for reason, refusal in account.refused.items()} == {
        "identical answers": [f"{account.source}:10"],
        "an answer longer than max_length": [f"{account.source}:11"],
    }
    assert account.tokens == found.rows.lengths.sum()
    assert account.scored_tokens == found.rows.scored.sum()
    assert account.cut_tokens > 0
    assert any("10 of 12 rows, 20 answers, " in line for line in said)
    assert found.ledger.to_json()["total"]["answers"] == 20


def node(role, text, *replies, rank=None):
    return {"role": role, "text": text, "replies": list(replies), "rank": rank}


DEEPER = node("prompter", "r", node("assistant", "c", rank=0), node("assistant", "d", rank=1))

TREE = node("prompter", "q", node("assistant", "a", DEEPER, rank=0), node("assistant", "b", rank=1))

TWO = {"message_tree_id": "t", "prompt": TREE}


def test_a_row_of_several_examples(write, prepared, said):
    none = {"message_tree_id": "u", "prompt": node("prompter", "q", node("assistant", "b", rank=0))}
    found = prepared([{"path": write(TWO, none, TWO), "max_rows": 2}], refused_tolerance=0.4)
    account = found.ledger.accounts[0]
    assert (account.rows, account.read, account.kept, account.refused_rows) == (2, 3, 2, 1)
    assert [found.rows.tree(i).row.rpartition(":")[2] for i in range(2)] == ["1", "1"]
    assert any("2 of 3 examples in 2 rows, 4 answers" in line for line in said)


def test_max_rows_counts_rows_and_not_their_examples(write, prepared, tmp_path):
    for name in ("a", "b"):
        write(TWO, TWO, name=f"trees/{name}.jsonl")
    account = prepared([{"path": str(tmp_path / "trees"), "max_rows": 3}]).ledger.accounts[0]
    assert (account.rows, account.read) == (3, 6)


def test_the_gate_looks_at_every_answer(write, prepared, qwen):
    qwen.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['content'] }}{{ '' if 'bad' in m['content'] else '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    qwen.eos_token_id = None
    with pytest.raises(DataError, match=r"rows\.jsonl:1, answer 2 with .*: the answer has no end-of-turn token"):
        prepared(write({"instruction": "q", "chosen": "good", "rejected": "bad"}), qwen)


@pytest.mark.parametrize(
    "change",
    [
        {"rejected": "Another"},
        {"score_chosen": 2, "score_rejected": 1},
        {"chosen": PAIRS[0]["rejected"], "rejected": PAIRS[0]["chosen"]},
    ],
)
def test_the_digest_covers_answers_grades_and_scores(write, prepared, pairs, change):
    assert prepared(write(*PAIRS, name="copy.jsonl")).digest() == pairs.digest()
    assert prepared(write(PAIRS[0] | change, *PAIRS[1:], name="other.jsonl")).digest() != pairs.digest()


def test_the_digest_covers_grades_alone(write, prepared):
    rows = [{"prompt": "Q:", "completion": " a", "label": label} for label in (0, 1)]
    assert prepared(write(rows[0])).digest() != prepared(write(rows[1], name="b.jsonl")).digest()


@pytest.mark.parametrize("keys", [{"max_length": 60}, {"max_prompt_length": 7}, {"truncation": "refuse"}])
def test_what_changes_trees_changes_the_key(write, prepared, home, keys):
    file = write(*PAIRS)
    prepared(file)
    prepared(file, **keys)
    assert len(list((home / "data").iterdir())) == 2


def test_a_second_run_reads_the_cache(write, prepared, monkeypatch):
    file = write(*PAIRS)
    first = prepared(file)
    monkeypatch.setattr(sys.modules["luthier.data.prepare"], "fill", None)
    again = prepared(file)
    assert again.digest() == first.digest()
    assert flat(again.rows.tree(3)) == flat(first.rows.tree(3))


def test_plain_stores_have_no_arrays_of_judged_ones(write, prepared, home):
    rows = prepared(write({"instruction": "q", "output": "a"})).rows
    folder = next((home / "data").iterdir())
    assert {file.stem for file in folder.iterdir()} == {
        "tokens",
        "scored",
        "offsets",
        "counts",
        "numbers",
        "parts",
        "store",
    }
    assert (rows.judged, rows.answers.tolist(), rows.prompts.tolist()) == (False, [1], [0])


@pytest.mark.parametrize(
    ("judged", "keys", "said"),
    [
        (True, {"loss_on": "all"}, r"data\.loss_on: 'all' with judged answers; assistant or last"),
        (False, {"max_prompt_length": 5}, r"data\.max_prompt_length: 5; max_length alone"),
        (False, {"share_prompts": False}, r"data\.share_prompts: false; true: rows of this objective have one answer"),
    ],
)
def test_keys_without_effect_are_refused(qwen, write, judged, keys, said):
    with pytest.raises(RecipeError, match=said):
        prepare(Data(train=write(*PAIRS), **keys), qwen, which="train", kind="judged" if judged else "plain")


def test_the_wrong_objective_is_told(qwen, write):
    with pytest.raises(DataError, match="As preference they are for preference objectives"):
        prepare(Data(train=write(*PAIRS)), qwen, which="train", kind="plain")
    assert prepare(Data(train=write(*PAIRS)), qwen, which="train", kind="judged").rows.judged
