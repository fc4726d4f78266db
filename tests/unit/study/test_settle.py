# SPDX-License-Identifier: Apache-2.0
"""What is decided before the first run, by real runs of a tiny model: budgets, tuned keys, the model to start from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.runs import tree

from luthier.core.errors import RecipeError, RunFailed
from luthier.engine.flops import count_rates
from luthier.run import load
from luthier.study import budget, compare, one
from luthier.study.design import design, difference_lines
from luthier.study.schema import load_study

ITEMS = [("What is the capital of Peru?", "Lima"), ("Opposite of hot?", "cold"), ("1+1?", "2")]


@pytest.fixture
def study(tiny_llama, alpaca_file, tmp_path):
    for name, items in (("mine", ITEMS), ("dev", ITEMS[:2])):
        text = "".join(json.dumps({"prompt": q, "answer": a}) + "\n" for q, a in items)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    base = tree(tiny_llama, alpaca_file, tmp_path / "unused", method={"name": "lora", "r": 2})
    del base["output_dir"], base["train"]
    return {
        "base": base | {"train": {"per_device_train_batch_size": 2}},
        "variants": {"lora": {}, "full": {"method": "full"}},
        "evaluate": str(tmp_path / "mine.jsonl"),
        "include_base": False,
        "seeds": [0, 1],
        "together": False,  # `trained` counts runs that train alone
        "output_dir": str(tmp_path / "study"),
    }


@pytest.fixture
def trained(monkeypatch):
    """The folders of the runs that are trained."""
    names = []

    def counting(resolved, **options):
        names.append("/".join(Path(resolved.recipe.output_dir).parts[-3:]))
        return real(resolved, **options)

    real = one.train
    monkeypatch.setattr(one, "train", counting)
    return names


@pytest.mark.parametrize(("kind", "amount"), [("scored_tokens", 700), ("tokens", 2500), ("steps", 3)])
def test_every_run_stops_at_the_budget(study, kind, amount):
    result = compare(study | {"budget": {kind: amount}})
    for run in result.runs:
        summary = run.summary
        used = summary[kind]
        assert used <= amount
        if kind != "steps":  # one step more would be too much
            lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
            largest = max(b[kind] - a[kind] for a, b in zip([dict.fromkeys((kind,), 0), *lines], lines, strict=False))
            assert used > amount - 2 * largest
    # the schedule ends where the run ends, and both variants of a seed took the same steps
    steps = {run.seed: run.summary["steps"] for run in result.runs}
    assert {(run.seed, run.summary["steps"]) for run in result.runs} == set(steps.items())
    assert all(run.summary["steps"] == planned.resolved.recipe.train.max_steps
               for run, planned in zip(result.runs, result.design.runs, strict=True))  # fmt: skip
    assert result.controlled().startswith("Controlled")
    assert result.design.notes[0].startswith(f"Budget: {amount:,} {kind.replace('_', ' ')} a run")


def test_flops_are_held_equal(study, tmp_path):
    amount = 2e9
    result = compare(study | {"budget": {"flops": amount}})
    used = {run.variant: run.summary["flops"] for run in result.runs if run.seed == 0}
    steps = {run.variant: run.summary["steps"] for run in result.runs if run.seed == 0}
    assert steps["lora"] > steps["full"]
    for name, count in used.items():
        assert amount * (1 - 2 / steps[name]) < count <= amount  # what was planned is what summary.json counts
    assert "Controlled" in result.controlled()
    assert "until its budget of flops was used" in result.controlled()
    model, _ = load(result.runs[0].folder)
    assert count_rates(model).per_token > 0
    kept = json.loads((tmp_path / "study" / "plan.json").read_text("utf-8"))
    assert set(kept) == {"lora", "full"}


def test_seconds_become_steps_once(study, monkeypatch, tmp_path):
    measured = []

    def timed(run, folder, say):
        measured.append(run.variant)
        return {"lora": 0.1, "full": 0.25}[run.variant]

    real = budget._measured
    monkeypatch.setattr(budget, "_measured", timed)
    result = compare(study | {"budget": {"seconds": 0.8}})
    assert measured == ["lora", "full"]
    assert {(run.variant, run.summary["steps"]) for run in result.runs} == {("lora", 8), ("full", 3)}
    assert all(run.reused for run in compare(study | {"budget": {"seconds": 0.8}}).runs)
    assert measured == ["lora", "full"]
    assert "measured once for each variant as steps: lora 8, full 3" in result.design.notes[0]
    seconds = real(result.design.runs[0], tmp_path, lambda _: None)
    assert 1e-4 < seconds < 10
    assert not (tmp_path / "calibration").exists()


def test_the_base_gives_way_to_a_budget_and_it_is_said(study):
    study["base"]["train"]["num_train_epochs"] = 3
    result = compare(study | {"budget": {"steps": 1}, "seeds": [0]})
    assert result.runs[0].summary["steps"] == 1
    assert "It takes the place of the base's train.num_train_epochs." in result.design.notes[0]


def test_what_is_tuned_is_chosen_elsewhere(study, trained, tmp_path):
    tune = {"keys": {"optim.learning_rate": [1e-4, 1e-3, 1e-2]}, "on": str(tmp_path / "dev.jsonl"), "seeds": [0]}
    study |= {"tune": tune, "budget": {"steps": 2}}
    result = compare(study)
    assert len(trained) == 6 + 2  # seed 0 of each choice was done while tuning
    chosen = json.loads((tmp_path / "study" / "tuned.json").read_text("utf-8"))
    for planned in result.design.runs:
        values = chosen[planned.variant]["values"]
        assert planned.resolved.recipe.optim.learning_rate == values["optim.learning_rate"]
        tried = chosen[planned.variant]["tried"]
        best = max(found["score"] for found in tried)
        # the first one of equals
        assert values == next(found["values"] for found in tried if found["score"] == best)
    assert all(
        (tmp_path / "study/tuning/runs" / f"lora-lr{rate}" / "seed-0").is_dir() for rate in (0.0001, 0.001, 0.01)
    )
    assert "Tuned on" in result.design.notes[1]
    for run in result.runs:
        assert list(run.summary["evaluation"])[-1] == "mine"
    before = len(trained)
    assert all(run.reused for run in compare(study).runs)
    assert len(trained) == before


def test_edges_of_the_grid_are_said(study, monkeypatch, tmp_path):
    from luthier.study import tuning

    plan = load_study(study | {"tune": {"keys": {"optim.learning_rate": [1e-4, 1e-3, 1e-2]}, "on": "embedded-dev"}})
    scores = {"lora-lr0.0001": 0.1, "lora-lr0.001": 0.2, "lora-lr0.01": 0.4,
              "full-lr0.0001": 0.3, "full-lr0.001": 0.5, "full-lr0.01": 0.5}  # fmt: skip
    Path(study["output_dir"]).mkdir()
    chosen = tuning.choose(plan, _Scores(scores))
    assert chosen["lora"].edge == {"optim.learning_rate": "highest"}
    assert chosen["full"].values == {"optim.learning_rate": 1e-3}
    assert chosen["full"].edge == {}
    said = tuning.sentences(plan, chosen)
    assert "embedded-dev (seed 0), which is not reported: lora optim.learning_rate = 0.01; full" in said[0]
    assert said[1].endswith("lora (optim.learning_rate: the highest tried).")
    with pytest.raises(RunFailed, match="study tune: full: none of 3 values has a finished run; loss nan"):
        tuning.choose(plan, _Scores({name: score for name, score in scores.items() if name.startswith("lora")}))


class _Scores:
    """Stands for a result: variant -> score; the others failed."""

    def __init__(self, scores):
        from luthier.evaluate.statistics import Estimate
        from luthier.study.results import Run

        self.rows = {}
        for name, score in scores.items():
            self.rows[name] = type("Row", (), {"score": Estimate(value=score, stderr=0.0), "runs": 1, "failed": 0})
        self.none = type("Row", (), {"score": Estimate(value=float("nan"), stderr=0.0), "runs": 0, "failed": 1})
        place = Path("x")
        self.failed = [
            Run(variant="full-lr0.001", seed=0, folder=place, summary={}, right={}, error="loss nan | step 1")
        ]

    def row(self, name):
        return self.rows.get(name, self.none)


def test_variants_may_stay_beside_what_is_tuned(study, trained, tmp_path):
    tune = {"keys": {"optim.learning_rate": [1e-3, 1e-2]}, "on": str(tmp_path / "dev.jsonl"), "beside": True,
            "variants": "lora"}  # fmt: skip
    result = compare(study | {"tune": tune, "budget": {"steps": 1}, "seeds": [0]})
    assert result.variants == ["lora", "lora-tuned", "full"]
    # lora at 1e-3 and lora-tuned were both done while tuning
    assert [name.split("/")[1] for name in trained] == ["lora-tuned-lr0.001", "lora-tuned-lr0.01", "full"]


def test_a_run_under_another_name_is_taken(study, trained):
    compare(study | {"budget": {"steps": 1}})
    assert len(trained) == 4
    renamed = study | {"variants": {"small": {}, "full": {"method": "full"}, "twin": {}}, "budget": {"steps": 1}}
    result = compare(renamed)
    assert len(trained) == 4
    assert [run.variant for run in result.runs] == ["small", "full", "twin"] * 2
    assert all(run.folder.parent.name == run.variant for run in result.runs)
    assert all((run.folder / "recipe.yaml").read_text("utf-8").count(run.variant) for run in result.runs)


def test_all_variants_start_from_one_tuned_model(study, trained, tmp_path, monkeypatch):
    start = study["base"] | {"method": "full", "train": {"max_steps": 2}}
    base = {key: value for key, value in study["base"].items() if key != "model"}
    study |= {"start": start, "base": base, "budget": {"steps": 1}, "include_base": True, "seeds": [0]}
    result = compare(study)
    place = tmp_path / "study" / "start" / "model"
    assert {run.resolved.recipe.model.model_name_or_path for run in result.design.runs} == {str(place)}
    written = (place / "model.safetensors").stat().st_mtime_ns
    assert all(run.reused for run in compare(study).runs)
    assert (place / "model.safetensors").stat().st_mtime_ns == written
    count = len(trained)
    compare(study, ["start.optim.learning_rate=0.01"])  # another model: all of it is done again
    assert (place / "model.safetensors").stat().st_mtime_ns != written
    assert len(trained) == count + 2


def test_what_differs_is_said_before_anything_runs(study):
    said: list[str] = []
    compare(study | {"budget": {"steps": 1}, "seeds": [0]}, say=said.append)
    first = next(number for number, line in enumerate(said) if line.startswith("[1/2]"))
    lines = said[:first]
    assert "what differs between the variants (all other recipe keys are the same):" in lines
    assert "    method.name: lora (lora); full (full)" in lines
    assert any(line.startswith("    not in every method, the same wherever it is: ") for line in lines)
    assert difference_lines(design(load_study(study | {"variants": {"one": {}}}))) == [
        "no recipe key differs between the variants"
    ]


def test_a_study_of_two_lengths_says_so(study):
    plan = design(load_study(study | {"variants": {"a": {}, "b": {"train.max_steps": 3}}}))
    assert "not controlled: amount of training (train.max_steps)" in difference_lines(plan)


def test_the_suite_that_chooses_is_not_reported_under_another_name(study, tmp_path):
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "mine.jsonl").read_bytes())
    tune = {"keys": {"optim.learning_rate": [1e-3, 1e-2]}, "on": str(tmp_path / "copy.jsonl")}
    with pytest.raises(RecipeError, match="holds the same items as 'mine', which is in evaluate"):
        compare(study | {"tune": tune})
