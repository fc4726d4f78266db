# SPDX-License-Identifier: Apache-2.0
"""Judging from plan to file: rows as FastChat writes them, nothing asked twice, and judgments that no longer hold."""

from __future__ import annotations

import json

import pytest
from tests.endpoint import Endpoint, answers, verdict_of

from luthier.core.errors import UserError
from luthier.judge.agreement import of_ratings, of_verdicts
from luthier.judge.bench import open_bench, references_of
from luthier.judge.client import Client
from luthier.judge.cost import Prices, estimate, tokens
from luthier.judge.judging import Judging
from luthier.judge.judgments import Compared, Rated, read_compared, read_rated
from luthier.judge.matches import plan
from luthier.judge.rating import rating

pytest.importorskip("openai")


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789abcdef")
    with Endpoint() as server:
        yield server


def _judged(folder, endpoint, models=("one", "two"), mode="single", baseline="two", parameters=None):
    bench = open_bench(str(folder))
    references, _ = references_of(bench, "j")
    judging = Judging(bench, "org/j", parameters)
    todo = judging.plan(plan(bench, models, references, mode, baseline))
    return todo, judging.run(todo, Client("org/j", base_url=endpoint.url))


def _rows(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_single_rows_are_fastchats(bench_folder, endpoint):
    _, outcome = _judged(bench_folder, endpoint)
    rows = _rows(outcome.file)
    assert outcome.file.name == "org--j_single.jsonl"
    assert (outcome.judged, outcome.done, outcome.without_rating, len(rows)) == (64, 0, 0, 64)
    assert (outcome.tokens_in, outcome.tokens_out) == (640, 320)
    names = ["question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp", "request"]
    assert {tuple(row) for row in rows} == {tuple(names)}
    for row in rows:
        assert row["judgment"] == verdict_of(row["user_prompt"])
        assert row["score"] == rating(row["judgment"])
    by_prompt = {(row["judge"][1], row["turn"]) for row in rows}
    assert by_prompt == {
        ("single-v1", 1), ("single-math-v1", 1), ("single-v1-multi-turn", 2), ("single-math-v1-multi-turn", 2),
    }  # fmt: skip
    assert len(read_rated(outcome.file)) == 64
    assert endpoint.bodies[0]["temperature"] == 0


def test_pairs_are_asked_in_both_orders(bench_folder, endpoint):
    _, outcome = _judged(bench_folder, endpoint, mode="pairwise-baseline")
    rows = _rows(outcome.file)
    assert len(rows) == 32
    assert endpoint.answered.total() == 64
    sides = {"A": ("model_1", "model_2"), "B": ("model_2", "model_1")}
    for row in rows:
        assert (row["model_1"], row["model_2"]) == ("one", "two")
        for game in (0, 1):
            prompt, said = row[f"g{game + 1}_user_prompt"], row[f"g{game + 1}_judgment"]
            assert (prompt.index("one says of") < prompt.index("two says of")) == (game == 0)
            letter = said[-3]
            assert row[f"g{game + 1}_winner"] == (sides[letter][game] if letter in sides else "tie")
    assert all(row.counts for row in read_compared(outcome.file))


def test_all_pairs(bench_folder, endpoint):
    answers(bench_folder, "three")
    todo, _ = _judged(bench_folder, endpoint, ("one", "two", "three"), mode="pairwise-all")
    assert {match.models for match in todo.matches} == {("one", "two"), ("one", "three"), ("two", "three")}


def test_nothing_is_asked_twice(bench_folder, endpoint):
    _, before = _judged(bench_folder, endpoint, ("one",))
    todo, after = _judged(bench_folder, endpoint)
    assert (todo.done, len(todo.requests)) == (32, 32)
    assert _rows(after.file)[:32] == _rows(before.file)[:32]
    before.file.unlink()  # the replies are still there
    todo, again = _judged(bench_folder, endpoint)
    assert (todo.done, len(todo.replies), list(todo.requests)) == (0, 64, [])
    assert (again.judged, again.tokens_in) == (64, 0)
    assert set(endpoint.answered.values()) == {1}


def test_judgments_of_other_answers_are_replaced(bench_folder, endpoint):
    _judged(bench_folder, endpoint)
    file = bench_folder / "model_answer" / "one.jsonl"
    file.write_text(file.read_text("utf-8").replace("one says of: Why is it red", "other"), encoding="utf-8")
    todo, outcome = _judged(bench_folder, endpoint)
    assert (len(todo.stale), todo.done, len(todo.requests)) == (1, 63, 1)
    rows = _rows(outcome.file)
    assert len(rows) == 64
    assert "other" in rows[-1]["user_prompt"]
    todo, _ = _judged(bench_folder, endpoint, parameters={"temperature": 1})
    assert (len(todo.stale), todo.done) == (64, 0)  # another question to the judge


def test_two_processes_lose_no_rows_to_each_other(bench_folder, endpoint):
    bench = open_bench(str(bench_folder))
    references, _ = references_of(bench, "j")
    judging = Judging(bench, "org/j")
    one, two = (judging.plan(plan(bench, [name], references, "single")) for name in ("one", "two"))  # both see no file
    for todo in (one, two):
        outcome = judging.run(todo, Client("org/j", base_url=endpoint.url))
    assert [row["model"] for row in _rows(outcome.file)] == ["one"] * 32 + ["two"] * 32


def test_fastchats_own_rows_stay(bench_folder, endpoint):
    _, outcome = _judged(bench_folder, endpoint, ("one",))
    rows = [{key: value for key, value in row.items() if key != "request"} for row in _rows(outcome.file)]
    outcome.file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    todo, _ = _judged(bench_folder, endpoint, ("one",), parameters={"temperature": 1})
    assert (todo.done, len(todo.stale), list(todo.requests)) == (32, 0, [])


def test_a_reply_without_a_rating_is_no_zero(bench_folder, endpoint, monkeypatch):
    monkeypatch.setattr("tests.endpoint.verdict_of", lambda _: "I would rather not say.")
    _, outcome = _judged(bench_folder, endpoint, ("one",))
    assert outcome.without_rating == 32
    assert {row["score"] for row in _rows(outcome.file)} == {-1}
    _, outcome = _judged(bench_folder, endpoint, mode="pairwise-baseline")
    assert outcome.without_rating == 32
    assert not any(row.counts for row in read_compared(outcome.file))


def test_modes(bench_folder, endpoint):
    with pytest.raises(UserError, match="--mode: 'pairs'; single, pairwise-baseline, pairwise-all"):
        _judged(bench_folder, endpoint, mode="pairs")
    with pytest.raises(UserError, match="pairwise-baseline with two alone"):
        _judged(bench_folder, endpoint, ("two",), mode="pairwise-baseline")


def test_costs(bench_folder, endpoint):
    todo, _ = _judged(bench_folder, endpoint, ("one",))
    assert todo.estimate.requests == 32
    assert todo.estimate.most_out == 32 * 2048
    prices = Prices(tokens_in=10.0, tokens_out=30.0)
    money = (todo.estimate.tokens_in * 10 + 32 * 250 * 30) / 1e6
    assert f"about {money:.2f}, at most" in todo.estimate.said(prices)
    assert "no prices given" in todo.estimate.said(Prices())
    assert estimate([], 3).said(prices).endswith("3 replies are there already")
    assert tokens("abcd" * 100) == 100
    assert tokens("中文" * 10) == 20


def _rated(scores):
    return [Rated(question=number, model="m", turn=1, score=score) for number, score in enumerate(scores)]


def test_two_judges():
    found = of_ratings(_rated([1, 5, 9, -1, 7]), _rated([2, 6, 9, 4]))
    assert (found["answers"], found["same"]) == (3, pytest.approx(1 / 3))
    assert (found["spearman"], found["difference"]) == (pytest.approx(1.0), pytest.approx(-2 / 3))
    assert 0.9 < found["kappa_quadratic"] < 1.0
    none = of_ratings(_rated([1]), [])
    assert (none["answers"], none["same"], none["kappa"], none["spearman"]) == (0, None, None, None)
    wins = ("model_1", "model_1")
    one = [Compared(question=number, models=("a", "b"), turn=1, winners=wins) for number in range(3)]
    two = [Compared(question=number, models=("b", "a"), turn=1, winners=("model_2", "model_2")) for number in range(3)]
    assert of_verdicts(one, two) == {"pairs": 3, "same": 1.0, "kappa": None}
