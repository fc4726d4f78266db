# SPDX-License-Identifier: Apache-2.0
"""Each task from rows to predictions: train, load, predict, evaluate, reopen, go on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runs import Command, bits, metrics, stop_before

import luthier
from luthier.core.errors import RecipeError
from luthier.evaluate.samples import typed_samples
from luthier.evaluate.trained import open_reader, predict
from luthier.export.merge import merge_run

pytestmark = pytest.mark.e2e
COLOURS = ["red", "green", "blue"]
THINGS = ["a cat", "the dog", "my house", "her book", "one tree"]


def labelled() -> list[dict[str, Any]]:
    return [{"text": f"{thing} is {colour}", "label": colour} for thing in THINGS for colour in COLOURS]


def tagged() -> list[dict[str, Any]]:
    rows = []
    for name in ("Ann", "Bob", "Eve"):
        for thing in THINGS:
            words = [name, "sees", *thing.split()]
            rows.append({"tokens": words, "tags": ["B-PER", "O", "O", "O"]})
    return rows


def questions() -> list[dict[str, Any]]:
    rows = []
    for thing in THINGS:
        for colour in COLOURS:
            context = f"Here {thing} is {colour} today."
            answers = {"text": [colour], "answer_start": [context.index(colour)]}
            rows.append({"question": "Which colour?", "context": context, "answers": answers})
    return rows


def paired() -> list[dict[str, Any]]:
    return [{"anchor": f"{thing} is {c}", "positive": f"{c}: {thing}"} for thing in THINGS for c in COLOURS]


def scored() -> list[dict[str, Any]]:
    pairs = [(a, b) for a in THINGS for b in THINGS]
    return [{"sentence1": a, "sentence2": b, "score": 5.0 if a == b else len(a) % 3 + 0.5} for a, b in pairs]


TASKS = {
    "SEQ_CLS": (labelled, {}, "accuracy"),
    "TOKEN_CLS": (tagged, {}, "f1"),
    "QUESTION_ANS": (questions, {}, "f1"),
    "FEATURE_EXTRACTION": (paired, {}, "mrr@10"),
    "scored": (scored, {"objective": {"name": "cosine", "score_range": [0, 5]}}, "spearman"),
}
each = pytest.mark.parametrize("task", TASKS)


@pytest.fixture
def recipe(tmp_path: Path, task: str) -> dict[str, Any]:
    rows, words, metric = TASKS[task]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    model = {} if task == "scored" else {"task_type": task}
    size = 8 if task in ("FEATURE_EXTRACTION", "scored") else 1
    return {
        "model": {"model_name_or_path": "embedded-tiny", "dtype": "float32", **model},
        "data": {"train": str(file), "eval": str(file), "max_length": 64, "doc_stride": 16},
        "method": {"name": "lora", "r": 4},
        "optim": {"learning_rate": 3e-3},
        "train": {
            "max_steps": 6,
            "per_device_train_batch_size": size,
            "per_device_eval_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "eval_steps": 3,
            "save_steps": 3,
            "load_best_model_at_end": True,
            "metric_for_best_model": {"mrr@10": "accuracy@1"}.get(metric, metric),
        },
        "output_dir": str(tmp_path / "run"),
        **words,
    }


@each
def test_from_rows_to_predictions(task, recipe, tmp_path, capsys):
    rows, _, metric = TASKS[task]
    result = luthier.train(recipe)
    seen = [line for line in metrics(result.folder) if "eval_loss" in line]
    assert len(seen) == 2
    assert all(f"eval_{recipe['train']['metric_for_best_model']}" in line for line in seen)
    assert set(result.summary["evaluation"]["loss"]) >= {"loss", recipe["train"]["metric_for_best_model"]}
    again = luthier.train(recipe, resume=True)  # it is finished: the result is opened
    assert type(again.model) is type(result.model)

    command = Command(capsys)
    file = recipe["data"]["train"]
    said = command("evaluate", result.folder, "--data", file, "--json", "--output", tmp_path / "said")
    assert said.code == 0, said.err
    found = json.loads(said.out)["evaluation"]["rows"]
    assert (found["metric"], found["items"]) == (metric, len(rows()))
    lines = (tmp_path / "said/predictions-rows.jsonl").read_text(encoding="utf-8").splitlines()
    shares = [json.loads(line)["right"] for line in lines]
    assert np.mean(shares) == pytest.approx(found["value"], abs=1e-9)
    assert found["low"] <= found["value"] <= found["high"]

    gap = tmp_path / "gap.jsonl"
    gap.write_text(f"{{}}\n{Path(file).read_text(encoding='utf-8')}", encoding="utf-8")
    predicted = command("predict", result.folder, gap, "--json")
    assert predicted.code == 0, predicted.err
    assert sum(json.loads(predicted.out)["refused"].values()) == 1
    assert "gap.jsonl:1" in predicted.err
    told = json.loads(predicted.out)["predictions"]
    assert len(told) == len(rows())
    assert told[0]["row"].endswith("gap.jsonl:2")
    _check(task, told[0])


def _check(task: str, row: dict[str, Any]) -> None:
    if task == "SEQ_CLS":
        assert set(row["probabilities"]) == set(COLOURS)
        assert sum(row["probabilities"].values()) == pytest.approx(1.0)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    elif task == "TOKEN_CLS":
        assert len(row["tags"]) == len(row["words"])
        assert all(entity["type"] == "PER" for entity in row["entities"])
    elif task == "QUESTION_ANS":
        context = questions()[0]["context"]
        assert context[row["start"] : row["end"]] == row["answer"]
        assert 0.0 < row["score"] <= 1.0
    else:
        assert len(row["vectors"]) == len(row["texts"]) == 2
        assert np.linalg.norm(row["vectors"], axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)


@pytest.mark.parametrize("task", ["SEQ_CLS", "FEATURE_EXTRACTION"])
def test_a_resumed_run_is_the_same_to_the_bit(task, recipe, tmp_path):
    luthier.train(recipe)
    other = recipe | {"output_dir": str(tmp_path / "stopped")}
    stop_before(4, other)
    luthier.train(other, resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "stopped")


@pytest.mark.parametrize("task", ["SEQ_CLS"])
def test_a_whole_model_is_transformers_own(task, recipe, capsys, tmp_path):
    from transformers import AutoModelForSequenceClassification

    result = luthier.train(recipe | {"method": "full"})
    model = AutoModelForSequenceClassification.from_pretrained(result.folder / "model")
    assert list(model.config.id2label.values()) == sorted(COLOURS)
    told = Command(capsys)("predict", result.folder / "model", "a cat is red", "the dog is blue", "--json")
    assert told.code == 0, told.err
    assert {row["label"] for row in json.loads(told.out)["predictions"]} <= set(COLOURS)


@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION"])
def test_a_merged_model_of_vectors(task, recipe):
    """It says how it pools, to us and to sentence-transformers."""
    recipe["objective"] = {"name": "contrastive", "pooling": "last"}
    run = luthier.train(recipe | {"train": recipe["train"] | {"max_steps": 2}}).folder
    merged = merge_run(run, dtype="float32").folder
    texts, found = ["a cat is red", "the dog is blue at home"], []
    assert (merged / "luthier_task.json").is_file()
    for folder in (run, merged, merged):
        reader = open_reader(*luthier.load(folder, "float32"), folder)
        (row,) = predict(reader, typed_samples(texts, None, "texts").every)
        found.append(np.array(row["vectors"]))
        if folder == merged:  # and once more, by the package's files alone
            (merged / "luthier_task.json").unlink(missing_ok=True)
    assert found[2] == pytest.approx(found[1], abs=1e-7)
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert "library_name: sentence-transformers" in (merged / "README.md").read_text(encoding="utf-8")
    package = pytest.importorskip("sentence_transformers")
    model = package.SentenceTransformer(str(merged), device="cpu")
    assert model.encode(texts) == pytest.approx(found[0], abs=1e-5)
    assert model.max_seq_length == 64


@pytest.mark.parametrize("task", ["SEQ_CLS"])
def test_an_unknown_metric_is_told_before_the_first_step(task, recipe):
    recipe["train"]["metric_for_best_model"] = "acuracy"
    with pytest.raises(RecipeError, match=r"unknown metric 'acuracy'; did you mean 'accuracy'"):
        luthier.train(recipe)
    assert not (Path(recipe["output_dir"]) / "checkpoints").exists()


@pytest.mark.parametrize("task", ["QUESTION_ANS"])
def test_what_predict_refuses(task, recipe, capsys, tmp_path):
    luthier.train(recipe)
    command = Command(capsys)
    assert "--context" in command("predict", recipe["output_dir"], "Which colour?").err
    said = command("predict", recipe["output_dir"], "Which colour?", "--context", "The dog is blue.", "--json")
    assert json.loads(said.out)["predictions"][0]["answer"] in "The dog is blue."
    assert "no such file" in command("predict", recipe["output_dir"], str(tmp_path / "none.jsonl")).err
    assert "no suite; --suite, --data or both" in command("evaluate", recipe["output_dir"]).err
    assert "it writes words" in command("predict", "embedded-tiny", "hello").err
