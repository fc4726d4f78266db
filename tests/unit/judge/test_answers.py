# SPDX-License-Identifier: Apache-2.0
"""Answers to a bench: temperatures and turns, a file that is gone on with, and one of another model that is not."""

from __future__ import annotations

import json

import pytest

from luthier.core.errors import UserError
from luthier.judge.answers import Settings, answer, named, weights_of
from luthier.judge.bench import open_bench, read_answers


class Model:
    """Answers with what it was asked, and remembers how."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def __call__(self, talks, **how):
        self.calls.append((talks, how))
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        return [f"<{len(talk)}: {talk[-1]['content']}>" for talk in (list(one) for one in talks)]


def _rows(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_each_category_has_its_temperature_and_the_second_turn_its_first_answer(bench_folder):
    model, bench = Model(), open_bench(str(bench_folder))
    file = answer(bench, "m", model, Settings(seed=3), weights="w")
    temperatures = [how["temperature"] for _, how in model.calls]
    assert temperatures == [0.0, 0.0, 0.1, 0.1, 0.7, 0.7]
    assert [how["seed"] for _, how in model.calls] == [6, 7] * 3
    assert {how["max_new_tokens"] for _, how in model.calls} == {1024}
    found = read_answers(file)
    for one in bench.questions:
        assert found[one.id] == (f"<1: {one.turns[0]}>", f"<3: {one.turns[1]}>")
    rows = _rows(file)
    assert [row["question_id"] for row in rows] == [one.id for one in bench.questions]
    assert {row["generation"]["temperature"] for row in rows} == {0.0, 0.1, 0.7}
    assert list(rows[0])[:5] == ["question_id", "answer_id", "model_id", "choices", "tstamp"]


def test_a_system_prompt_comes_first(bench_folder):
    model = Model()
    answer(open_bench(str(bench_folder)), "m", model, Settings(system="Be brief."), weights="w")
    assert {talk[0]["content"] for talks, _ in model.calls for talk in talks} == {"Be brief."}


def test_a_file_that_was_begun_is_gone_on_with(bench_folder):
    bench = open_bench(str(bench_folder))
    with pytest.raises(KeyboardInterrupt):
        answer(bench, "m", Model(fail_at=4), Settings(), weights="w")
    model = Model()
    file = answer(bench, "m", model, Settings(), weights="w")
    assert [how["temperature"] for _, how in model.calls] == [0.1, 0.1, 0.7, 0.7]
    assert len(_rows(file)) == 16
    whole = Model()
    other = answer(bench, "n", whole, Settings(), weights="w")
    assert [row["choices"] for row in _rows(other)] == [row["choices"] for row in _rows(file)]


@pytest.mark.parametrize(("settings", "weights", "word"), [({"seed": 1}, "w", "seed"), ({}, "other", "weights")])
def test_answers_of_another_model_are_not_gone_on_with(bench_folder, settings, weights, word):
    bench = open_bench(str(bench_folder))
    answer(bench, "m", Model(), Settings(), weights="w")
    with pytest.raises(UserError, match=f"answers with another {word}.*add --again"):
        answer(bench, "m", Model(), Settings(**settings), weights=weights)
    model = Model()
    answer(bench, "m", model, Settings(**settings), weights=weights, again=True)
    assert len(model.calls) == 6


def test_answers_of_fastchat_are_not_overwritten(bench_folder):
    with pytest.raises(UserError, match="answers with another"):
        answer(open_bench(str(bench_folder)), "one", Model(), Settings(), weights="w")


def test_names():
    assert named(["runs/lora/", "full=runs/a/seed-0", "org/model"]) == {
        "lora": "runs/lora/", "full": "runs/a/seed-0", "model": "org/model",
    }  # fmt: skip
    with pytest.raises(UserError, match="a second model named seed-0"):
        named(["a/seed-0", "b/seed-0"])
    with pytest.raises(UserError, match="an empty name or place"):
        named(["=x"])


def test_weights_are_told_by_their_content(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name / "adapter").mkdir(parents=True)
        (tmp_path / name / "adapter" / "adapter_model.safetensors").write_bytes(content)
    a, b, c = (weights_of(str(tmp_path / name)) for name in "abc")
    assert a == b != c
    assert weights_of("org/model") == "org/model"


def test_the_embedded_model_is_told_by_its_weights(tmp_path, monkeypatch):
    (tmp_path / "embedded").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(weights_of("embedded")) == 16 != len("embedded")
