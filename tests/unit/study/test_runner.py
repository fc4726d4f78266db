# SPDX-License-Identifier: Apache-2.0
"""Real runs of a tiny model: what is done, what is done again, what fails, and what a stop leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.core.errors import Interrupted, RecipeError
from luthier.study import compare, one
from luthier.study.one import train

ITEMS = [("What is the capital of Peru?", "Lima"), ("Opposite of hot?", "cold"), ("1+1?", "2"), ("Say hi.", "hi")]


@pytest.fixture
def study(tiny_llama, alpaca_file, tmp_path):
    suite = tmp_path / "mine.jsonl"
    suite.write_text("".join(json.dumps({"prompt": q, "answer": a}) + "\n" for q, a in ITEMS), encoding="utf-8")
    return {
        "base": {
            "model": {"model_name_or_path": str(tiny_llama), "dtype": "float32"},
            "data": {"train": str(alpaca_file), "max_length": 128},
            "method": {"name": "lora", "r": 4},
            "optim": {"learning_rate": 1.0e-3},
            "train": {"max_steps": 2, "per_device_train_batch_size": 1},
        },
        "variants": {"r2": {"method.r": 2}, "full": {"method": "full"}},
        "evaluate": str(suite),
        "output_dir": str(tmp_path / "study"),
    }


@pytest.fixture
def trained(monkeypatch):
    """Count the runs that are trained."""
    names = []

    def counting(resolved, **options):
        names.append("/".join(Path(resolved.recipe.output_dir).parts[-2:]))
        return train(resolved, **options)

    monkeypatch.setattr(one, "train", counting)
    return names


def test_a_study_leaves_everything_and_is_not_done_twice(study, trained, tmp_path):
    said: list[str] = []
    result = compare(study, say=said.append)
    assert trained == ["r2/seed-0", "full/seed-0"]
    assert [run.variant for run in result.runs] == ["base", "r2", "full"]
    folder = Path(study["output_dir"])
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    wanted = {"study.yaml", "results.json", "results.csv", "report.md"}
    wanted |= {f"runs/{place}/predictions-mine.jsonl" for place in ("base", "r2/seed-0", "full/seed-0")}
    assert wanted <= names
    for run in result.runs[1:]:
        assert 0 < run.summary["state_bytes"] < run.summary["peak_memory_bytes"]
        assert run.summary["evaluation"]["mine"]["items"] == len(ITEMS)
        assert run.summary["trained_loss"] > 0
    assert result.row("r2").trainable_parameters < result.row("full").trainable_parameters
    assert result.controlled().startswith("Controlled")

    again = compare(study, say=said.append)
    assert len(trained) == 2
    assert [run.reused for run in again.runs] == [True, True, True]
    assert "(was done already)" in said[-1]
    assert [row.score for row in again.rows()] == [row.score for row in result.rows()]
    compare(study, overwrite=True)
    assert len(trained) == 4


def test_only_what_changed_is_done_again(study, trained, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_bytes(Path(study["base"]["data"]["train"]).read_bytes())
    study["base"]["data"]["train"] = str(data)
    compare(study)
    compare(study, ["variants.r2.optim.learning_rate=0.01"])
    assert trained == ["r2/seed-0", "full/seed-0", "r2/seed-0"]
    data.write_text("\n".join(data.read_text("utf-8").splitlines()[:30]) + "\n", encoding="utf-8")
    compare(study, ["variants.r2.optim.learning_rate=0.01"])
    assert trained[3:] == ["r2/seed-0", "full/seed-0"]  # same recipes, other rows


def test_another_suite_is_asked_without_training(study, trained, tmp_path):
    first = compare({**study, "evaluate": [study["evaluate"]]})
    more = tmp_path / "more.jsonl"
    more.write_text(Path(study["evaluate"]).read_text("utf-8"), encoding="utf-8")
    both = compare({**study, "evaluate": [study["evaluate"], str(more)]})
    assert len(trained) == 2
    for old, new in zip(first.runs, both.runs, strict=True):
        # what was loaded from disk answers as what was in memory
        replies = [
            [
                json.loads(line)["reply"]
                for line in (new.folder / f"predictions-{n}.jsonl").read_text("utf-8").splitlines()
            ]
            for n in ("mine", "more")
        ]
        assert replies[0] == replies[1]
        assert old.right["mine"].tolist() == new.right["more"].tolist()
    with pytest.raises(RecipeError, match="suites with names of their own"):
        compare({**study, "evaluate": [study["evaluate"], study["evaluate"]]})


def test_a_failed_run_is_shown_and_the_study_goes_on(study, trained):
    study["variants"] = {"bad": {"method.target_modules": ["no_such_layer"]}, "r2": {"method.r": 2}}
    result = compare(study)
    assert [(run.variant, bool(run.error)) for run in result.runs] == [("base", False), ("bad", True), ("r2", False)]
    assert "no_such_layer" in result.failed[0].error
    report = (result.folder / "report.md").read_text("utf-8")
    assert "| bad | 0 (1 failed) | failed |" in report
    assert "no_such_layer" in report


def test_an_unforeseen_fault_leaves_its_trace(study, monkeypatch):
    def broken(resolved, **options):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(one, "train", broken)
    result = compare(study)
    assert result.failed[0].error == "ZeroDivisionError: by zero"
    assert "Traceback" in (result.failed[0].folder / "error.txt").read_text("utf-8")


def test_a_stop_keeps_what_is_done(study, trained, monkeypatch):
    def stopped(resolved, **options):
        if "full" in resolved.recipe.output_dir:
            raise Interrupted("full", "stopped")
        return train(resolved, **options)

    with monkeypatch.context() as patch:
        patch.setattr(one, "train", stopped)
        with pytest.raises(Interrupted, match="1 of 2 runs are done and kept; the same command goes on"):
            compare(study)
    results = json.loads((Path(study["output_dir"]) / "results.json").read_text("utf-8"))
    assert [run["variant"] for run in results] == ["base", "r2"]
    compare(study)
    assert trained == ["full/seed-0"]


def test_a_stop_while_suites_are_asked_does_not_cost_the_training(study, trained, monkeypatch):
    calls = []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 2:  # the base was asked, then the first run
            raise KeyboardInterrupt
        return real(*args, **options)

    real = one.add_scores
    with monkeypatch.context() as patch:
        patch.setattr(one, "add_scores", interrupted)
        with pytest.raises(Interrupted):
            compare(study)
    compare(study)
    assert trained == ["r2/seed-0", "full/seed-0"]


def test_a_stopped_run_goes_on(study, trained, monkeypatch):
    resumed = []

    def half(resolved, *, resume, overwrite, **options):
        resumed.append((resume, overwrite))
        if not resumed[1:]:
            folder = Path(resolved.recipe.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "recipe.yaml").write_text(resolved.to_yaml(), encoding="utf-8")
            raise Interrupted("run", "stopped")
        return train(resolved, resume=resume, overwrite=overwrite, **options)

    monkeypatch.setattr(one, "train", half)
    with pytest.raises(Interrupted):
        compare(study)
    compare(study)
    assert resumed == [(False, True), (True, False), (False, True)]


def test_a_run_folder_is_not_taken_for_a_study(study, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "recipe.yaml").write_text("x", encoding="utf-8")
    with pytest.raises(RecipeError, match="holds a run"):
        compare(study)
