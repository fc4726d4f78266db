# SPDX-License-Identifier: Apache-2.0
"""Suites: names, files, faults, and an evaluation from question to predictions."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from luthier.core.errors import DataError
from luthier.core.shipped import sets_folder
from luthier.evaluate.suite import SHIPPED, evaluate, load_suite


@pytest.mark.parametrize(("name", "items"), [("embedded", 600), ("embedded-dev", 300), ("embedded-math", 240)])
def test_shipped_suites(name, items):
    suite = load_suite(name)
    assert (suite.name, len(suite.items)) == (name, items)
    assert all(item.messages[-1].role == "user" and item.answer for item in suite.items)


def test_every_name_has_a_file():
    assert [name for name, stem in SHIPPED.items() if not (sets_folder() / f"{stem}.jsonl").is_file()] == []


def test_a_limit_takes_the_first_and_says_so():
    suite = load_suite("embedded", 7)
    assert suite.items == load_suite("embedded").items[:7]
    assert suite.name == "embedded-first-7"
    assert suite.digest != load_suite("embedded").digest
    assert load_suite("embedded", 10**6) == load_suite("embedded")


@pytest.fixture
def mine(tmp_path):
    rows = [
        {"prompt": "1+1?", "answer": "2"},
        {"instruction": "Translate.", "input": "dog", "output": "perro"},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
            ],
            "check": "one_of",
            "answer": ["Hello", "Hi"],
        },
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    return file


def test_a_file_may_ask_in_three_ways(mine):
    suite = load_suite(str(mine))
    assert suite.name == "mine"
    asked = [[(m.role, m.content) for m in item.messages] for item in suite.items]
    assert asked == [
        [("user", "1+1?")],
        [("user", "Translate.\ndog")],
        [("system", "Be brief."), ("user", "Hi")],  # the reply is the model's to give
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no items"),
        ("not json", "not JSON"),
        ("[1]", "holds list"),
        ('{"answer": "a"}', "columns answer; prompt, or instruction"),
        ('{"messages": [{"role": "robot", "content": "x"}], "answer": "a"}', "message"),
    ],
)
def test_broken_files_name_the_row(tmp_path, text, said):
    file = tmp_path / "bad.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl") as error:
        load_suite(str(file))
    assert said in str(error.value)


def test_an_unknown_name_is_corrected():
    with pytest.raises(DataError, match="did you mean 'embedded-math'"):
        load_suite("embeded-math")


def test_evaluate_asks_judges_and_writes(mine, tmp_path, monkeypatch):
    asked = []

    def generate(model, tokenizer, prompts, *, max_new_tokens, batch_size):
        asked.extend(prompts)
        return ["2", "gato", " Hi "]

    def words(text, add_special_tokens):
        return {"input_ids": text.split()}

    module = ModuleType("luthier.models.generate")
    module.generate = generate
    monkeypatch.setitem(sys.modules, "luthier.models.generate", module)
    found = evaluate(None, words, load_suite(str(mine)), system="Short.")
    assert [turns[0]["content"] for turns in asked] == ["Short.", "Short.", "Be brief."]
    assert found.score.right == (True, False, True)
    found.write(tmp_path / "predictions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [(line["reply"], line["right"]) for line in lines] == [("2", True), ("gato", False), (" Hi ", True)]
    assert found.to_json()["digest"] == found.suite.digest
    assert all("group" not in line for line in lines)
    items = tuple(replace(item, group="talk", category="chat") for item in found.suite.items)
    replace(found, suite=replace(found.suite, items=items)).write(tmp_path / "grouped.jsonl")
    again = [json.loads(line) for line in (tmp_path / "grouped.jsonl").read_text("utf-8").splitlines()]
    assert {(line["group"], line["category"]) for line in again} == {("talk", "chat")}


def test_a_reply_that_never_ends_is_wrong(mine, monkeypatch):
    module = ModuleType("luthier.models.generate")
    module.generate = lambda *args, **options: ["2", "perro " * 8, "Hi"]
    monkeypatch.setitem(sys.modules, "luthier.models.generate", module)
    suite = load_suite(str(mine))
    suite = replace(
        suite, items=tuple(replace(i, check="contains_all", answer=a) for i, a in zip(suite.items, "2pH", strict=True))
    )
    words = lambda text, add_special_tokens: {"input_ids": text.split()}  # noqa: E731
    assert evaluate(None, words, suite, max_new_tokens=8).score.right == (True, False, True)
    assert evaluate(None, words, suite, max_new_tokens=32).score.right == (True, True, True)
