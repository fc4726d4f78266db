# SPDX-License-Identifier: Apache-2.0
"""Results of models as files, and their differences on the same items."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.runs import Command

import luthier.evaluate
from luthier.core.errors import DataError, UserError
from luthier.evaluate.evaluation import Evaluation
from luthier.evaluate.items import Item
from luthier.evaluate.judged import Judged, metric_of
from luthier.evaluate.results import Results, against, is_results, read_results
from luthier.evaluate.significance import sign_flip
from luthier.evaluate.suite import Suite

ROWS = 40


def evaluation(values, metric="acc", digest="d", name="mine", group=""):
    items = tuple(Item(group=f"{group}{place // 4}" if group else "") for place in range(len(values)))
    suite = Suite(name=name, kind="x", keys=None, items=items, digest=digest, refused={"bad": 2})
    judged = Judged(metric=metric, metrics={metric: float(np.mean(values))}, values=np.array(values, np.float64))
    return Evaluation(suite=suite, judged=judged, rows=[{"said": "a"}] * len(values))


def some(share, seed=0):
    return (np.random.default_rng(seed).random(ROWS) < share).astype(float)


def test_an_evaluation_as_data(tmp_path):
    found = evaluation([1.0, 0.0, 1.0, 1.0] * 10)
    told = found.to_json()
    assert (told["value"], told["items"], told["refused"]) == (0.75, 40, {"bad": 2})
    assert told["low"] < 0.75 < told["high"]
    found.write(tmp_path / "said.jsonl")
    assert (tmp_path / "said.jsonl").read_text(encoding="utf-8").count('"right": 1.0') == 30
    grouped = evaluation([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 5, group="g").to_json()
    assert grouped["stderr"] > 1.5 * evaluation([1.0, 0.0] * 20).to_json()["stderr"]  # ten groups, not forty items


def test_results_are_read_as_they_were_written(tmp_path):
    found = [evaluation(some(0.5), group="g"), evaluation(some(0.2), name="other")]
    Results.of("runs/a", found).write(tmp_path / "a", found)
    assert is_results(tmp_path / "a")
    again = read_results(tmp_path / "a")
    assert (again.model, list(again.evaluation)) == ("runs/a", ["mine", "other"])
    assert again.answers["mine"].values.tolist() == found[0].judged.values.tolist()
    assert again.answers["mine"].groups == tuple(item.group for item in found[0].suite.items)
    (tmp_path / "a" / "predictions-other.jsonl").unlink()
    with pytest.raises(DataError, match="FileNotFoundError"):
        read_results(tmp_path / "a")


def test_differences_are_of_the_same_items():
    first, second = some(0.3), some(0.3)
    second[:20] = 1.0
    rows = against([Results.of(name, [evaluation(values)]) for name, values in (("a", first), ("b", second))])
    (row,) = json.loads(json.dumps(rows))
    assert row["difference"] == pytest.approx(second.mean() - first.mean())
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["p"] == row["p_holm"] == sign_flip(second - first)
    assert (row["model"], row["suite"], row["verdict"]) == ("b", "mine", "better")
    alike = against([Results.of(name, [evaluation(first)]) for name in ("a", "b", "c")])
    assert [row["verdict"] for row in alike] == ["no difference seen"] * 2
    worse = against([Results.of(n, [evaluation(v + 1, metric="perplexity")]) for n, v in (("a", first), ("b", second))])
    assert worse[0]["verdict"] == "worse"  # it rose


@pytest.mark.parametrize("changed", [{"digest": "e"}, {"metric": "acc_norm"}, {"name": "other"}])
def test_other_items_are_not_compared(changed):
    results = [Results.of("a", [evaluation(some(0.5))]), Results.of("b", [evaluation(some(0.5), **changed)])]
    with pytest.raises(UserError, match="asked"):
        against(results)


def test_the_interval_of_a_perplexity_is_made_of_its_logarithm():
    logs = np.random.default_rng(1).normal(3.0, 1.0, 200)
    shares = np.exp(3.0) * (1 + logs - logs.mean())  # of exp(mean) to first order
    found = evaluation(shares, metric="perplexity")
    low, high = (found.to_json()[name] for name in ("low", "high"))
    reach = 1.97 * logs.std(ddof=1) / 200**0.5
    assert np.log([low, high]) == pytest.approx([3.0 - reach, 3.0 + reach], abs=0.01)
    assert found.to_json()["stderr"] == pytest.approx(np.exp(3.0) * logs.std(ddof=1) / 200**0.5)


def test_what_metrics_can_be():
    assert (metric_of("bleu").high, metric_of("spearman").low, metric_of("anything").is_mean) == (100.0, -1.0, True)
    assert metric_of(metric_of("bits_per_byte").rising).high == 1.0
    assert evaluation([37.0, 52.0, 48.0], metric="chrf").to_json()["high"] > 37.0  # of a scale that nobody named


def test_what_was_found_is_kept_when_the_next_suite_fails(tmp_path, tiny_llama, capsys, monkeypatch):
    real = luthier.evaluate.evaluate

    def failing(model, tokenizer, suite, **words):
        if suite.name == "two":
            raise UserError("two", "a fault", "none", "try again")
        return real(model, tokenizer, suite, **words)

    monkeypatch.setattr("luthier.evaluate.evaluate", failing)
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": "1+1?", "answer": "2"}) + "\n", encoding="utf-8")
    suites = [word for name in ("one", "two") for word in ("--suite", str(tmp_path / f"{name}.jsonl"))]
    said = Command(capsys)("evaluate", str(tiny_llama), *suites, "--output", str(tmp_path / "kept"))
    assert (said.code, "a fault" in said.err) == (2, True)
    assert list(read_results(tmp_path / "kept").evaluation) == ["one"]
