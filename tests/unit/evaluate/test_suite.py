# SPDX-License-Identifier: Apache-2.0
"""Suites: names, files, faults, and an evaluation from question to predictions."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from luthier.core.errors import DataError, UserError
from luthier.core.shipped import sets_folder
from luthier.evaluate.named import SHIPPED
from luthier.evaluate.suite import evaluate, load_suite


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
        ("", "the file is empty"),
        ("not json", "not JSON"),
        ("[1]", "a row is not an object"),
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


@pytest.fixture
def say(monkeypatch):
    """Let a model that is none say what a test wants, and tell what it was asked."""
    asked = []

    def will(*replies: str):
        def generate(model, tokenizer, prompts, *, max_new_tokens, batch_size, raw=False):
            asked.append((list(prompts), max_new_tokens, raw))
            return list(replies)

        module = ModuleType("luthier.models.generate")
        module.generate = generate
        monkeypatch.setitem(sys.modules, "luthier.models.generate", module)
        return asked

    return will


def words(text, add_special_tokens):
    return {"input_ids": text.split()}


def right(found):
    return [row["right"] for row in found.rows]


def test_evaluate_asks_judges_and_writes(mine, tmp_path, say):
    asked = say("2", "gato", " Hi ")
    found = evaluate(None, words, load_suite(str(mine)), system="Short.")
    assert [turns[0]["content"] for turns in asked[0][0]] == ["Short.", "Short.", "Be brief."]
    assert right(found) == [True, False, True]
    found.write(tmp_path / "predictions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [(line["reply"], line["right"]) for line in lines] == [("2", True), ("gato", False), (" Hi ", True)]
    told = found.to_json()
    assert (told["digest"], told["batch_size"], told["metric"]) == (found.suite.digest, 100, "exact_match")
    assert told["stderr"] == pytest.approx((2 / 3 * 1 / 3 / 2) ** 0.5)
    assert all("group" not in line for line in lines)
    assert "by_category" not in told
    items = tuple(replace(item, group="talk", category="chat") for item in found.suite.items)
    replace(found, suite=replace(found.suite, items=items)).write(tmp_path / "grouped.jsonl")
    again = [json.loads(line) for line in (tmp_path / "grouped.jsonl").read_text("utf-8").splitlines()]
    assert {(line["group"], line["category"]) for line in again} == {("talk", "chat")}


def test_a_reply_that_never_ends_is_wrong(mine, say):
    say("2", "perro " * 8, "Hi")
    suite = load_suite(str(mine))
    suite = replace(
        suite, items=tuple(replace(i, check="contains_all", answer=a) for i, a in zip(suite.items, "2pH", strict=True))
    )
    assert right(evaluate(None, words, suite, max_new_tokens=8)) == [True, False, True]
    assert right(evaluate(None, words, suite, max_new_tokens=32)) == [True, True, True]


def test_categories_have_scores_and_a_plain_mean(tmp_path, say):
    file = tmp_path / "some.jsonl"
    rows = [{"prompt": "?", "answer": "a", "category": name} for name in ("x", "y", "y", "y", "y")]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    say("a", "a", "no", "a", "no")
    told = evaluate(None, words, load_suite(str(file))).to_json()
    assert {name: (part["value"], part["items"]) for name, part in told["by_category"].items()} == {
        "x": (1.0, 1),
        "y": (0.5, 4),
    }
    assert told["by_category"]["x"]["stderr"] is None
    assert (told["value"], told["macro_average"]["value"]) == (0.6, pytest.approx(0.75))
    assert told["macro_average"]["low"] < 0.75 < told["macro_average"]["high"]


def test_columns_examples_and_plain_text(tmp_path, say):
    (tmp_path / "some.jsonl").write_text('{"q": "1+1?", "a": 2}\n{"q": "2+2?", "a": 4}\n', encoding="utf-8")
    (tmp_path / "shots.csv").write_text("q,a\n0+1?,1\n0+2?,2\n", encoding="utf-8")
    (tmp_path / "sums.yaml").write_text(
        "kind: exact_match\ndata: some.jsonl\nprompt: 'Q: {q}'\nanswer: '{a}'\ndelimiter: ' A: '\n"
        "fewshot: shots.csv\nnum_fewshot: 1\nchat: false\nuntil: [\"\\n\"]\ncategory: '{file}'\n",
        encoding="utf-8",
    )
    asked = say("2\nQ: 1+3?", "5")
    suite = load_suite(str(tmp_path / "sums.yaml"))  # its files stand beside it
    found = evaluate(None, words, suite)
    assert asked[0] == (["Q: 0+1? A: 1\n\nQ: 1+1?", "Q: 0+1? A: 1\n\nQ: 2+2?"], 32, True)
    assert [row["reply"] for row in found.rows] == ["2", "5"]
    assert right(found) == [True, False]
    assert (suite.name, {item.category for item in suite.items}) == ("sums", {"some"})
    chat = load_suite({"kind": "exact_match", "data": str(tmp_path / "some.jsonl"), "prompt": "{q}", "answer": "{a}"})
    assert (chat.name, chat.digest != suite.digest) == ("some-exact_match", True)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"data": "x.jsonl"}, "no kind among data"),
        ({"kind": "exakt", "data": "x"}, "unknown name 'exakt'; did you mean 'exact_match'"),
        ({"gsm8k": "x", "data": "y"}, "gsm8k: and data: as well"),
        ({"gsm8k": "x", "propmt": "y"}, "propmt"),
        ({"gsm8k": "x", "name": "a/b"}, "without a slash"),
        ({"gsm8k": "FILE", "num_fewshot": 2}, "num_fewshot 2 without fewshot"),
        ({"exact_match": "FILE", "prompt": "{q}"}, "no column 'q' for '{q}'; its columns: prompt, answer"),
        ({"exact_match": "FILE", "prompt": "{q"}, "is broken"),
        ({"exact_match": {"path": "FILE", "format": "alpaca"}}, "data.format"),
        ({"multiple_choice": "FILE"}, "no column 'choices'"),
        ({"gsm8k": "FILE", "prompt": "{prompt}"}, "answer 'two'"),
        ({"generation": "FILE", "references": "right"}, "no column 'right'"),
        ({"exact_match": "FILE", "rows": "examples"}, "not JSON"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said(tmp_path, tree, said):
    file = tmp_path / "x.jsonl"
    file.write_text('{"prompt": "1+1?", "answer": "two"}\n{"prompt": "?", "answer": "x"}\n', encoding="utf-8")
    text = json.dumps(tree).replace("FILE", str(file))
    with pytest.raises(UserError) as error:
        load_suite(text)
    assert said in str(error.value)
