# SPDX-License-Identifier: Apache-2.0
"""From files to rows: the ledger, truncation, the cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.data import fill, prepare
from luthier.data.kinds import plain
from luthier.recipe.schema import Data

GOOD = [{"instruction": f"What is {i} + 2?", "output": f"It is {i + 2}."} for i in range(100)]
BAD = {"instruction": "x", "output": ""}


def decoded(found, tokenizer, row: int = 0) -> tuple[str, str]:
    segment = found.rows.tree(row).segments[0]
    return tokenizer.decode(segment.ids), tokenizer.decode(segment.ids[segment.scored])


def test_rows_are_trees(write, prepared, qwen):
    found = prepared(write(*GOOD))
    text, scored = decoded(found, qwen, 3)
    assert text == "<|im_start|>user\nWhat is 3 + 2?<|im_end|>\n<|im_start|>assistant\nIt is 5.<|im_end|>\n"
    assert scored == "It is 5.<|im_end|>"
    tree = found.rows.tree(3)
    assert tree.parents == (-1,)
    assert tree.row.endswith("rows.jsonl:4")
    assert (tree.segments[0].ids.dtype, tree.segments[0].scored.dtype) == (np.int32, np.bool_)
    assert len(found.rows) == 100
    assert found.rows.lengths.dtype == np.int32
    assert found.rows.lengths[3] == len(tree)
    assert found.rows.scored[3] == tree.segments[0].scored.sum()
    assert found.chat_template == qwen.chat_template


def test_a_row_that_is_not_there(write, prepared):
    rows = prepared(write(*GOOD[:2])).rows
    for place in (2, -1):
        with pytest.raises(IndexError):
            rows.tree(place)


def test_sources_follow_one_another(write, prepared):
    one, two = write(*GOOD[:3], name="one.jsonl"), write(*GOOD[:2], name="two.jsonl")
    rows = prepared([one, {"path": two, "weight": 2.0}]).rows
    assert rows.starts.tolist() == [0, 3, 5]
    assert [rows.tree(i).row.rpartition("/")[2] for i in range(5)] == [
        "one.jsonl:1", "one.jsonl:2", "one.jsonl:3", "two.jsonl:1", "two.jsonl:2",
    ]  # fmt: skip


def test_the_ledger_counts_every_row(write, prepared, said):
    rows = [*GOOD, BAD, {"instruction": "x"}, BAD]
    account = prepared(write(*rows), refused_tolerance=0.05).ledger.accounts[0]
    assert (account.read, account.kept, account.refused_rows) == (103, 100, 3)
    assert {reason: (r.count, [row.rpartition(":")[2] for row in r.rows]) for reason, r in account.refused.items()} == {
        "empty answer": (2, ["101", "103"]),
        "no column output": (1, ["102"]),
    }
    assert "2 refused: empty answer (turn 2): rows 101, 103" in said[-1]


def test_the_ledgers_json(write, prepared):
    ledger = prepared(write(*GOOD, BAD)).ledger.to_json()
    assert json.loads(json.dumps(ledger)) == ledger
    assert (ledger["which"], ledger["total"]["read"], ledger["total"]["refused"]) == ("train", 101, 1)
    source = ledger["sources"][0]
    assert (source["format"], source["columns"]) == ("alpaca", {"instruction": "instruction", "output": "output"})
    assert source["scored_tokens"] == ledger["total"]["scored_tokens"] > 0


def test_too_many_refused_rows_stop_the_run(write, prepared):
    with pytest.raises(DataError) as caught:
        prepared(write(*GOOD, BAD, BAD, {"instruction": 3, "output": "x"}))
    said = str(caught.value)
    assert "3 of 103 rows (2.9%) were refused; data.refused_tolerance is 2.0%; mend or remove these rows" in said
    assert "\n  2 refused: empty answer (turn 2): rows 101, 102" in said
    assert "\n  1 refused: instruction is not text (a number): row 103" in said


def test_where_length_is_the_reason_it_is_said(write, prepared):
    long = {"instruction": "q", "output": "word " * 60}
    for rows, words in ((GOOD, "raise data.max_length, mend or remove these rows, or raise data.refused_tolerance:"),
                        ([], "raise data.max_length, mend the rows, or name another format:")):  # fmt: skip
        with pytest.raises(DataError, match=words):
            prepared(write(*rows, *[long] * 5), max_length=40, truncation="refuse")


def test_each_source_is_held_to_the_tolerance(write, prepared):
    with pytest.raises(DataError, match=r"small\.jsonl: 1 of 3 rows \(33\.3%\)"):
        prepared([write(*GOOD), write(*GOOD[:2], BAD, name="small.jsonl")])


def test_no_row_left(write, prepared):
    with pytest.raises(
        DataError, match=r"all 2 rows were refused; mend the rows, or name another format:\n  2 refused"
    ):
        prepared(write(BAD, BAD), refused_tolerance=1.0)


def test_no_row_that_can_be_read(tmp_path, prepared):
    (tmp_path / "x.jsonl").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"x\.jsonl:1: not JSON .*; so are all of the first 2 rows; mend or convert"):
        prepared(str(tmp_path / "x.jsonl"))


def test_an_array_without_rows(tmp_path, prepared):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataError, match="it holds no rows"):
        prepared(str(tmp_path / "x.json"))


def test_more_faults_than_are_named(write, prepared):
    account = prepared(write(*GOOD[:60], *[BAD] * 40), refused_tolerance=0.5).ledger.accounts[0]
    assert len(account.refused["empty answer"].rows) == 8
    assert account.told()[0].endswith("66, 67, 68, ...")


def test_truncation(write, prepared, qwen):
    long = {"instruction": "Count.", "output": " ".join(map(str, range(60)))}
    found = prepared(write(long, *GOOD), max_length=40)
    account = found.ledger.accounts[0]
    assert found.rows.lengths[0] == 40
    assert account.truncated >= 1
    assert account.cut_tokens > 0
    assert decoded(found, qwen)[1].startswith("0 1 2")
    assert "not seen" in account.told()[-1]


def test_an_answer_cut_away(write, prepared):
    long = {"instruction": " ".join(map(str, range(60))), "output": "ok"}
    account = prepared(write(long, *GOOD), max_length=60).ledger.accounts[0]
    assert account.refused["answer cut away by max_length"].count == 1


def test_truncation_refuse(write, prepared):
    long = {"instruction": "Count.", "output": " ".join(map(str, range(60)))}
    account = prepared(write(long, *GOOD), max_length=60, truncation="refuse").ledger.accounts[0]
    assert account.refused["longer than max_length"].count == 1
    assert account.truncated == 0


def test_max_rows_counts_good_and_bad(write, prepared):
    account = prepared([{"path": write(BAD, *GOOD), "max_rows": 60}]).ledger.accounts[0]
    assert (account.read, account.kept) == (60, 59)


def test_small_chunks_make_the_same_rows(write, prepared, monkeypatch, tmp_path):
    file = write(*GOOD)
    whole = prepared(file).rows
    monkeypatch.setattr(fill, "CHUNK_ROWS", 7)
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "other"))
    pieces = prepared(file).rows
    for row in range(100):
        one, other = pieces.tree(row), whole.tree(row)
        assert one.row == other.row
        assert np.array_equal(one.segments[0].ids, other.segments[0].ids)
        assert np.array_equal(one.segments[0].scored, other.segments[0].scored)


def test_text_and_chats_of_one_recipe(write, prepared, qwen):
    found = prepared([write(*GOOD[:3]), write({"text": "The capital"}, name="text.jsonl")])
    assert decoded(found, qwen, 3)[0] == "The capital<|endoftext|>"


def test_no_source(qwen):
    with pytest.raises(DataError, match=r"data\.eval: no source; a path, or a list of sources; add eval: to data:"):
        prepare(Data(train="x"), qwen, which="eval")


def test_max_length_beyond_the_model_is_said(write, prepared, qwen, said):
    qwen.model_max_length = 512
    prepared(write(*GOOD), max_length=2048)
    assert "data.max_length is 2,048, but the tokenizer's model_max_length is 512" in said


def test_the_format_is_said_aloud(write, prepared, said):
    prepared(write({"question": "a", "answer": "b", "id": "1"}))
    assert said[0].endswith("format alpaca (instruction = question, output = answer); not used: id")


# ---------------------------------------------------------------- the cache


def stores(home: Path) -> set[str]:
    return {folder.name for folder in (home / "data").iterdir()}


@pytest.fixture
def never_again(monkeypatch):
    """Make tokenising fail from now on."""

    def _never():
        def fail(*_):
            raise AssertionError("tokenised again")

        monkeypatch.setattr(plain, "encode", fail)

    return _never


def test_a_second_run_reads_the_cache(write, prepared, never_again):
    file = write(*GOOD, BAD)
    first = prepared(file)
    never_again()
    second = prepared(file, packing=False, refused_tolerance=0.5, shuffle=False)  # not of the tokens' concern
    assert second.ledger == first.ledger
    assert np.array_equal(second.rows.lengths, first.rows.lengths)


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 64},
        {"truncation": "refuse"},
        {"loss_on": "all"},
        {"system": "Be brief."},
        {"chat_template": "plain"},
    ],
)
def test_what_changes_tokens_changes_the_key(write, prepared, home, change):
    file = write(*GOOD)
    prepared(file)
    prepared(file, **change)
    assert len(stores(home)) == 2


def test_content_and_reading_change_the_key(write, prepared, home):
    file = write(*GOOD)
    prepared(file)
    prepared([{"path": file, "max_rows": 5}])
    prepared([{"path": file, "columns": {"instruction": "output", "output": "instruction"}}])
    write(*GOOD[1:])
    assert len(prepared(file).rows) == 99
    assert len(stores(home)) == 4


def test_touching_the_file_changes_nothing(write, prepared, never_again):
    file = write(*GOOD)
    prepared(file)
    os.utime(file, (1, 1))
    never_again()
    prepared(file)


def test_the_tokenizer_changes_the_key(write, prepared, home, qwen):
    file = write(*GOOD)
    prepared(file)
    qwen.add_tokens(["capital"])
    prepared(file, qwen)
    assert len(stores(home)) == 2


def test_a_broken_store_is_made_again(write, prepared, home):
    file = write(*GOOD)
    prepared(file)
    (folder,) = (home / "data").iterdir()
    tokens = folder / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-4])
    assert len(prepared(file).rows) == 100


def test_a_cache_that_cannot_be_written(write, prepared, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cache .*: cannot be written \(.*\); free some space, or set LUTHIER_HOME"):
        prepared(write(*GOOD))


def test_no_store_is_left_of_a_failed_preparation(write, prepared, home):
    with pytest.raises(DataError):
        prepared(write(BAD, BAD))
    assert stores(home) == set()
