# SPDX-License-Identifier: Apache-2.0
"""Tables: equal to FastChat's on its own judgments, and to its code in pandas on random ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import DataError, UserError
from luthier.judge import report
from luthier.judge.bench import answers_of, open_bench, references_of
from luthier.judge.judgments import Compared, Rated, judgments_in, one_of, read_compared, read_rated
from luthier.judge.scores import by_category, differences, intervals, macro, win_intervals
from luthier.judge.table import pair_table, single_table

HERE = Path(__file__)
SHARED = next((folder / "shared" for folder in HERE.parents[3:] if (folder / "shared" / "data").is_dir()), HERE)
MT_BENCH = SHARED / "data" / "mt-bench"
published = pytest.mark.skipif(not MT_BENCH.is_dir(), reason="no published judgments beside the checkout")

MODELS = ("a", "b", "c")
rated = st.builds(
    Rated,
    question=st.integers(1, 4),
    model=st.sampled_from(MODELS),
    turn=st.sampled_from((1, 2)),
    score=st.sampled_from((-1, 1, 2.5, 7, 10)),
)
compared = st.builds(
    Compared,
    question=st.integers(1, 4),
    models=st.permutations(MODELS).map(lambda names: tuple(names[:2])),
    turn=st.sampled_from((1, 2)),
    winners=st.tuples(*[st.sampled_from(("model_1", "model_2", "tie", "error"))] * 2),
)


@published
def test_published_judgments_give_the_published_table():
    tree = report.single(MT_BENCH, None, report.Choice())
    assert tree["models"] == {
        "mistral-orpo-capybara": {"turn_1": 7.125, "turn_2": 6.5125, "average": 6.8187},
        "mistral-orpo-mix": {"turn_1": 6.4313, "turn_2": 5.575, "average": 6.0031},
    }
    assert list(tree["models"]) == ["mistral-orpo-capybara", "mistral-orpo-mix"]
    assert tree["rows"]["mistral-orpo-mix"] == {"rated": 160, "without_rating": 0, "twice": 0, "missing": 0}
    assert {len(own) for own in tree["categories"].values()} == {8}


@published
@pytest.mark.parity
def test_published_judgments_were_asked_and_read_as_here():
    bench = open_bench(str(MT_BENCH / "mt_bench"))
    references, name = references_of(bench, "gpt-4")
    questions = {one.id: one for one in bench.questions}
    assert (name, len(references), len(questions)) == ("gpt-4", 30, 80)
    rows = [json.loads(line) for line in judgments_in(MT_BENCH, "single")["gpt-4"].read_text("utf-8").splitlines()]
    answers = {model: answers_of(bench, model) for model in {row["model"] for row in rows}}
    assert len(rows) == 320
    for row in rows:
        question = questions[row["question_id"]]
        answer, right = answers[row["model"]][question.id], references.get(question.id, ())
        asked = bench.rules.single(bench.prompts, question, row["turn"], answer, right)
        assert (asked.prompt, asked.user) == (row["judge"][1], row["user_prompt"])
        assert bench.rules.rate(row["judgment"]) == row["score"]


@pytest.mark.parity
@given(rows=st.lists(rated, max_size=30))
def test_single_table_is_that_of_show_result(rows):
    import pandas as pd

    frame = pd.DataFrame([vars(row) for row in rows], columns=["question", "model", "turn", "score"])
    frame = frame[frame["score"] != -1]
    found = single_table(rows)
    average = frame[["model", "score"]].groupby(["model"]).mean()["score"]
    assert {model: own["average"] for model, own in found.items()} == pytest.approx(average.to_dict())
    assert [own["average"] for own in found.values()] == sorted(
        (own["average"] for own in found.values()), reverse=True
    )
    for turn in (1, 2):
        means = frame[frame["turn"] == turn].groupby(["model", "turn"])["score"].mean()
        expected = {model: value for (model, _), value in means.items()}
        name = f"turn_{turn}"
        assert {model: own[name] for model, own in found.items() if own[name] is not None} == pytest.approx(expected)


@pytest.mark.parity
@given(rows=st.lists(compared, max_size=30), baseline=st.sampled_from((None, "a")))
def test_pair_table_is_that_of_show_result(rows, baseline):
    import pandas as pd

    results = []
    for row in rows:
        if "error" in row.winners or (baseline is not None and baseline not in row.models):
            continue
        first, second = row.winners
        if first == "tie" or first != second:
            results += [{"model": model, "win": 0, "loss": 0, "tie": 1} for model in row.models]
        else:
            winner, loser = row.models if first == "model_1" else row.models[::-1]
            results.append({"model": winner, "win": 1, "loss": 0, "tie": 0})
            results.append({"model": loser, "win": 0, "loss": 1, "tie": 0})
    frame = pd.DataFrame(results, columns=["model", "win", "loss", "tie"]).groupby(["model"]).sum()
    frame = frame[frame.index != baseline]
    total = frame["win"] + frame["loss"] + frame["tie"]
    frame["win_rate"], frame["loss_rate"] = frame["win"] / total, frame["loss"] / total
    frame["win_rate_adjusted"] = (frame["win"] + 0.5 * frame["tie"]) / total
    found = pair_table(rows, baseline)
    assert set(found) == set(frame.index)
    for model, own in found.items():
        assert own == pytest.approx(frame.loc[model].to_dict())


def _rows(scores, turn=1, model="a"):
    return [Rated(question=number, model=model, turn=turn, score=score) for number, score in enumerate(scores)]


def test_the_question_is_the_cluster():
    scores = [1, 9, 2, 8, 3, 7, 4, 6] * 4
    once, twice = _rows(scores), _rows(scores) + _rows(scores, turn=2)
    one, two = (intervals(rows, (1, 10))["a"]["average"] for rows in (once, twice))
    assert (one.value, one.stderr) == pytest.approx(
        (two.value, two.stderr)
    )  # a second turn like the first adds nothing


def test_macro_average_is_the_mean_of_categories_with_their_error():
    rows = _rows([1, 3, 5, 10, 10, 8, 9, 7, 10, 9])
    categories = {number: "few" if number < 3 else "many" for number in range(10)}
    found = macro(rows, categories, (1, 10))["a"]
    few, many = [1, 3, 5], [10, 10, 8, 9, 7, 10, 9]
    means = [sum(part) / len(part) for part in (few, many)]
    variances = [
        sum((score - mean) ** 2 for score in part) / len(part) ** 2
        for part, mean in zip((few, many), means, strict=True)
    ]
    assert found.value == pytest.approx(sum(means) / 2)
    assert found.stderr == pytest.approx(
        math.sqrt(sum(variances) / 4 * 10 / 9)
    )  # drawn by G / (G - 1) of ten questions
    shown = by_category(rows, categories, (1, 10))["a"]
    assert {name: one.value for name, one in shown.items()} == pytest.approx({"few": means[0], "many": means[1]})


def test_differences_are_paired():
    rows = _rows([1, 5, 9, 3]) + _rows([2, 6, 10, 4, 10], model="b")
    found = differences(rows, "a")
    assert list(found) == ["b"]
    assert (found["b"].value, found["b"].stderr) == (1.0, 0.0)


def test_win_intervals_have_the_adjusted_rate():
    row = {"turn": 1, "models": ("a", "b")}
    rows = [Compared(question=number, winners=("model_1", "model_1"), **row) for number in range(6)]
    rows += [Compared(question=number, winners=("model_1", "model_2"), **row) for number in range(6, 10)]
    found = win_intervals(rows)
    assert found["a"].value == pair_table(rows)["a"]["win_rate_adjusted"] == 0.8
    assert 0.5 < found["a"].low < 0.8 < found["a"].high <= 1.0


def test_rows_are_counted(tmp_path):
    folder = tmp_path / "model_judgment"
    folder.mkdir()
    rows = [{"question_id": 1, "model": "a", "score": score, "turn": 1} for score in (7, 7, -1)]
    (folder / "j_single.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tree = report.single(tmp_path, None, report.Choice())
    assert tree["rows"] == {"a": {"rated": 2, "without_rating": 1, "twice": 2}}
    assert tree["models"] == {"a": {"turn_1": 7.0, "turn_2": None, "average": 7.0}}
    assert "2 rated, 1 without rating, 2 twice" in "\n".join(report.said(tree))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            '{"question_id": 1, "model": "a", "turn": 1}',
            "line 1: columns question_id, model, turn; score: int or float",
        ),
        ('{"question_id": 1, "model": "a", "turn": 1, "score": "7"}', "column 'score' holds str"),
        ('{"question_id": 1, "model": "a", "turn": 1, "score": NaN}', "score nan; a finite number"),
        ("[1]", "holds list; one JSON object a line"),
        ("{", "is not JSON"),
    ],
)
def test_broken_rows_are_told(tmp_path, row, words):
    file = tmp_path / "j_single.jsonl"
    file.write_text(row + "\n", encoding="utf-8")
    with pytest.raises(DataError) as told:
        read_rated(file)
    assert words in str(told.value)


def test_unknown_winners_are_told(tmp_path):
    file = tmp_path / "j_pair.jsonl"
    row = {"question_id": 1, "model_1": "a", "model_2": "b", "g1_winner": "A", "g2_winner": "tie", "turn": 1}
    file.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(DataError, match="winner 'A'; model_1, model_2, tie, error"):
        read_compared(file)


def test_several_judges_are_not_mixed(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}_single.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="judgments of several judges; one, two"):
        one_of(judgments_in(tmp_path, "single"), None)
    with pytest.raises(UserError, match="no judgments of three"):
        one_of(judgments_in(tmp_path, "single"), "three")


def test_pairs_say_how_often_both_orders_agree(tmp_path):
    winners = [("model_1", "model_1"), ("tie", "tie"), ("model_1", "model_2"), ("model_1", "tie"), ("error", "model_1")]
    row = {"model_1": "a", "model_2": "b", "turn": 1}
    lines = [row | {"question_id": n, "g1_winner": g1, "g2_winner": g2} for n, (g1, g2) in enumerate(winners)]
    (tmp_path / "j_pair.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tree = report.pairs(tmp_path, report.Choice())
    assert tree["rows"] == {"compared": 4, "same_in_both_orders": 0.5, "without_verdict": 1}
    said = "\n".join(report.said(tree))
    assert "same verdict in both orders: 0.500 of 4" in said
    assert "1 pairs without a verdict are left out" in said
