# SPDX-License-Identifier: Apache-2.0
"""`luthier judge` as a user types it: a model answers, an endpoint judges, tables are shown; both kinds of benches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.endpoint import Endpoint, answers, verdict_of
from tests.runs import Command

from luthier.judge.rating import rating, share

pytest.importorskip("openai")
pytestmark = pytest.mark.e2e


@pytest.fixture
def command(capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789abcdef")
    return Command(capsys)


@pytest.fixture
def endpoint():
    with Endpoint() as server:
        yield server


def test_from_answers_to_tables(command, endpoint, tiny_llama, tmp_path):
    place = ["--bench", "embedded", "--output", tmp_path]
    said = command("judge", "answers", f"tiny={tiny_llama}", "embedded", *place, "--max-new-tokens", 8, "--json")
    assert said.code == 0, said.err
    assert set(json.loads(said.out)["answers"]) == {"tiny", "embedded"}
    asking = ["judge", *place, "--model", "j", "--base-url", endpoint.url, "--price-in", 30, "--price-out", 60]
    said = command(*asking)  # nobody is there to agree
    assert (said.code, endpoint.answered.total()) == (2, 0)
    assert "add --yes to send it" in said.err
    assert "64 requests, about" in said.err
    said = command(*asking, "--yes", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert (found["judged"], found["failed"]) == (64, [])
    assert found["cost"] == pytest.approx((640 * 30 + 320 * 60) / 1e6)
    rows = [json.loads(line) for line in Path(found["file"]).read_text("utf-8").splitlines()]
    scores = [rating(verdict_of(row["user_prompt"])) for row in rows if row["model"] == "tiny"]
    tree = json.loads(command("judge", "--table", tmp_path, "--bench", "embedded", "--json").out)
    assert tree["models"]["tiny"]["average"] == pytest.approx(sum(scores) / 32, abs=1e-4)
    assert len(tree["categories"]["tiny"]) == 8
    said = command("judge", *place, "--model", "j", "--mode", "pairwise-all", "--base-url", endpoint.url, "--yes")
    assert said.code == 0, said.err
    tree = json.loads(command("judge", "--table", tmp_path, "--mode", "pairwise-all", "--json").out)
    wins = tree["models"]
    assert sum(wins["tiny"][name] for name in ("win", "loss", "tie")) == 32
    assert wins["tiny"]["win_rate_adjusted"] + wins["embedded"]["win_rate_adjusted"] == pytest.approx(1, abs=2e-4)


def test_belle(command, endpoint, tmp_path):
    kinds = ["math", "code", "generation", "open qa"]
    rows = [{"question": f"Q{n}", "std_answer": "R", "class": kinds[n % 4]} for n in range(12)]
    prompts = [{"class": kind, "prompt": f"给分 {kind}"} for kind in kinds]
    for name, lines in (("eval_set.json", rows), ("eval_prompt.json", prompts)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    questions = [{"question_id": n, "turns": [f"Q{n}"]} for n in range(1, 13)]
    (tmp_path / "question.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions), encoding="utf-8")
    answers(tmp_path, "m")
    (tmp_path / "question.jsonl").unlink()
    words = ["judge", "--bench", tmp_path, "--model", "j", "--base-url", endpoint.url, "--yes"]
    said = command(*words)
    assert said.code == 0, said.err
    file = tmp_path / "model_judgment" / "j_single.jsonl"
    found = {row["question_id"]: row["score"] for row in map(json.loads, file.read_text("utf-8").splitlines())}
    parts = {"others": [], "generation": [], "open qa": []}
    for number, row in enumerate(rows, 1):
        parts["others" if row["class"] in ("math", "code") else row["class"]].append(found[number])
    tree = json.loads(command("judge", "--table", tmp_path, "--json").out)
    means = [sum(part) / len(part) for part in parts.values()]
    assert tree["macro_average"]["m"]["value"] == pytest.approx(sum(means) / 3, abs=1e-4)
    assert set(tree["categories"]["m"]) == set(parts)
    assert tree["models"]["m"]["turn_2"] is None
    assert {body["messages"][0]["role"] for body in endpoint.bodies} == {"user"}
    assert all(found[n] == share(verdict_of(b["messages"][0]["content"])) for n, b in _by_question(endpoint))
    said = command(*words, "--mode", "pairwise-all")
    assert (said.code, "for a bench without prompts for pairs" in said.err) == (2, True)


def _by_question(endpoint):
    for body in endpoint.bodies:
        asked = body["messages"][0]["content"]
        yield next(n for n in range(12, 0, -1) if f" Q{n - 1} " in asked), body


def test_two_judges_and_a_baseline(command, endpoint, tmp_path):
    place = ["--bench", "embedded", "--output", tmp_path]
    (tmp_path / "question.jsonl").write_text('{"question_id": 1, "turns": ["a", "b"]}\n', encoding="utf-8")
    answers(tmp_path, "one", "two")
    (tmp_path / "question.jsonl").unlink()
    for judge in ("j", "k"):
        words = ["judge", *place, "--items", 1, "--model", judge, "--base-url", endpoint.url, "--yes"]
        assert command(*words, "--parameter", f"seed={len(judge)}", "--parameter", "max_tokens=null").code == 0
    assert {tuple(sorted(body)) for body in endpoint.bodies} == {("messages", "model", "seed", "temperature")}
    said = command("judge", "--table", tmp_path)
    assert (said.code, "judgments of several judges; j, k" in said.err) == (2, True)
    said = command("judge", "--table", tmp_path, "--model", "j", "--against", "k", "--baseline", "two")
    assert said.code == 0
    assert "j and k: answers 4, same 1.0, kappa 1.0" in said.out  # the endpoint rates by content alone
    assert "one minus two:" in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "neither --bench nor --table"),
        (["--bench", "embedded"], "--bench embedded: no --output"),
        (["--bench", "/nowhere"], "no such folder"),
        (["--table", "/nowhere"], "no such folder"),
        (["answers", "--bench", "embedded", "--output", "{}"], "luthier judge answers: no model"),
        (["--bench", "embedded", "--output", "{}"], "luthier judge: no judge; --model NAME"),
        (["--bench", "embedded", "--output", "{}", "--model", "j"], "no answers"),
        (["x", "--bench", "embedded", "--output", "{}", "--model", "j"], "model x: no "),
        (["--table", "{}", "--mode", "pairs"], "--mode: 'pairs'; single"),
        (["--table", "{}"], "no judgments; model_judgment/JUDGE_single.jsonl"),
    ],
)
def test_faults_are_told_before_anything_is_sent(command, tmp_path, words, told):
    said = command("judge", *(word.format(tmp_path) for word in words))
    assert said.code == 2
    assert told in said.err
