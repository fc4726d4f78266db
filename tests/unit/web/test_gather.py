# SPDX-License-Identifier: Apache-2.0
"""What is read from folders that are old, half there, stopped, broken, or complete."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from luthier.core.errors import UserError
from luthier.engine.presence import announced
from luthier.evaluate.statistics import crossed, paired_difference
from luthier.web.gather import gather
from luthier.web.sections.against import ranks
from luthier.web.sections.progress import progress

ITEMS = 40


def _right(share: float) -> list[float]:
    return [float(n < round(share * ITEMS)) for n in range(ITEMS)]


def test_a_study_without_study_json(study):
    found = gather(study)
    assert (found.title, found.baseline, found.suites, found.seeds) == ("Four ways", "r4", {"mine": ITEMS}, (0, 1))
    assert not found.whole
    assert [run.state for run in found.runs].count("done") == 8
    assert {run.key: run.state for run in found.runs}["full/seed-1"] == "waiting"
    assert found.variants == ["r4", "r16", "rs16", "full"]
    assert [found.family(v) for v in found.variants] == ["LoRA", "LoRA", "rsLoRA", "full"]
    assert [found.rank(v) for v in found.variants] == [4, 16, 16, None]
    assert set(found.differing) >= {"method.name", "method.r", "method.use_rslora"}
    assert "seed" not in found.differing


def test_rows_are_those_of_the_statistics(study):
    rows = {row["variant"]: row for row in gather(study).rows["mine"]}
    both = crossed([_right(0.4), _right(0.45)])
    assert rows["r16"]["score"] == pytest.approx(both.value)
    assert rows["r16"]["score_stderr"] == pytest.approx(both.stderr)
    delta = paired_difference([_right(0.8)] * 2, [_right(0.4)] * 2)
    assert rows["rs16"]["delta"] == pytest.approx(0.4) == pytest.approx(delta.value)
    assert rows["rs16"]["delta_high"] - rows["rs16"]["delta_low"] == pytest.approx(2 * 1.96 * delta.stderr)
    assert rows["rs16"]["verdict"] == "better"
    assert rows["r4"]["delta"] is None
    assert rows["base"]["delta"] == pytest.approx(0.1 - 0.4)
    assert rows["full"]["delta"] == pytest.approx(0.6 - 0.4), "only the seed that both have"
    assert rows["rs16"]["cost_per_point"] == pytest.approx(5.0 / 70)
    assert rows["base"]["cost_per_point"] is None


def test_categories_and_forgetting(study):
    found = gather(study)
    cell = found.categories["mine"]["math"]["rs16"]
    assert cell["value"] == pytest.approx(np.mean(_right(0.8)[::2]))
    assert cell["items"] == ITEMS // 2
    assert cell["low"] < cell["value"] < cell["high"]
    change = found.forgetting["rs16"]["code"]
    assert change["after"] - change["before"] == pytest.approx(change["delta"])
    assert change["before"] == pytest.approx(np.mean(_right(0.1)[1::2]))


def test_study_json_is_believed_while_it_holds_every_run(study):
    runs = [
        {"variant": run.variant, "seed": run.seed, "fingerprint": run.summary.get("fingerprint")}
        for run in gather(study).runs
        if run.state == "done"
    ]
    row = {"variant": "r4", "score": 0.9, "score_low": 0.8, "score_high": 0.95, "runs": 2, "failed": 0, "verdict": None}
    told = {"title": "Told", "suites": {"mine": 40}, "rows": {"mine": [row]}, "runs": runs, "baseline": "r4",
            "verdict": "It was so.", "claims": None, "smallest": {"mine": 0.1}, "seeds": [0, 1]}  # fmt: skip
    (study / "study.json").write_text(json.dumps(told), "utf-8")
    found = gather(study)
    assert found.whole
    assert found.rows["mine"] == [row]
    assert found.said == ("It was so.",)
    assert found.claims == []
    assert found.categories["mine"], "what it lacks is worked out"

    told["runs"] = runs[:-1]
    (study / "study.json").write_text(json.dumps(told), "utf-8")
    assert not gather(study).whole, "a run has ended since"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"rows": 3}'])
def test_a_broken_study_json_is_passed_over(study, text):
    (study / "study.json").write_text(text, "utf-8")
    found = gather(study)
    assert not found.whole
    assert len(found.rows["mine"]) == 5


def test_states(tmp_path, run_folder):
    runs = tmp_path / "s" / "runs"
    run_folder(runs / "going" / "seed-0", share=None, steps=4)
    run_folder(runs / "stopped" / "seed-0", share=None, steps=4)
    run_folder(runs / "failed" / "seed-0", share=None, steps=4)
    (runs / "failed" / "seed-0" / "error.txt").write_text("Traceback\nValueError: no\n", "utf-8")
    run_folder(runs / "unscored" / "seed-0")
    summary = runs / "unscored" / "seed-0" / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text("utf-8")) | {"evaluation": {}}), "utf-8")
    with announced(runs / "going" / "seed-0", 10):
        found = {run.variant: run for run in gather(tmp_path / "s").runs}
    assert {name: run.state for name, run in found.items()} == {
        "failed": "failed", "going": "running", "stopped": "stopped", "unscored": "unscored",
    }  # fmt: skip
    assert found["going"].seconds_left == pytest.approx(0.5 * 6)
    assert found["failed"].error == "ValueError: no"
    assert gather(tmp_path / "s").runs[1].state == "stopped", "it has left"


def test_errors_come_from_results_json(study):
    failed = {"variant": "full", "seed": 1, "error": "loss nan"}
    stopped = {
        "variant": "full",
        "seed": 1,
        "error": "x: stopped after step 3 of 9, which is saved; go on with --resume",
    }
    for told, state in ((failed, "failed"), (stopped, "stopped")):
        (study / "results.json").write_text(json.dumps([told]), "utf-8")
        assert next(run for run in gather(study).runs if run.key == "full/seed-1").state == state


def test_a_line_that_is_being_written_is_left_out(tmp_path, run_folder):
    folder = run_folder(tmp_path / "run", share=None, steps=3)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    run = gather(folder).runs[0]
    assert run.step == 3
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('ss": 1.0}\n{"step": 5, "loss": null}\n{"step": 5, "eval_loss": 0.5}\n')
    run = gather(folder).runs[0]
    assert run.step == 4
    assert len(run.held_out) == 1


def test_one_run(tmp_path, run_folder):
    found = gather(run_folder(tmp_path / "first"))
    assert found.alone
    assert found.title == "first"
    assert found.runs[0].state == "done"
    assert found.variants == ["first"]


@pytest.mark.parametrize("make", [True, False])
def test_no_study_and_no_run(tmp_path, make):
    folder = tmp_path / "other"
    if make:
        folder.mkdir()
    with pytest.raises(UserError, match="the folder of a study or of one run"):
        gather(folder)


def test_an_unknown_error_is_no_number(tmp_path, run_folder):
    """One item tells no error: the row has a score and no interval."""
    folder = run_folder(tmp_path / "s" / "runs" / "a" / "seed-0")
    (folder / "predictions-mine.jsonl").write_text('{"right": true}\n', "utf-8")
    row = gather(tmp_path / "s").rows["mine"][0]
    assert row["score"] == 1.0
    assert row["score_low"] is None
    assert not any(isinstance(value, float) and math.isnan(value) for value in row.values())


def test_runs_that_come_first_are_followed_too(study, run_folder):
    """A model to start from, and the study that chooses what is tuned, stand in folders of their own."""
    run_folder(study / "start")
    run_folder(study / "tuning" / "runs" / "r4-lr0.1" / "seed-0", share=None, steps=2)
    (study / "tuning" / "study.yaml").write_text("variants: {r4-lr0.1: {}, r4-lr0.2: {}}\nseeds: [0]\n", "utf-8")
    with announced(study / "tuning" / "runs" / "r4-lr0.1" / "seed-0", 10):
        found = gather(study)
        states = {run.key: run.state for run in found.early}
    assert states == {"start": "done", "tuning/r4-lr0.1/seed-0": "running", "tuning/r4-lr0.2/seed-0": "waiting"}
    assert "tuning/r4-lr0.1" not in found.variants
    said = progress(found, live=True)
    assert "8 of 11 runs done" in said
    assert 'data-run="tuning/r4-lr0.1/seed-0"' in said


def test_groups_are_told_by_names_without_ranks(tmp_path, run_folder):
    runs = tmp_path / "s" / "runs"
    for name, rank, stable in [
        ("lora-r4", 4, False), ("lora-r16", 16, False), ("lora-r4-tuned", 4, False), ("lora-r16-tuned", 16, False),
        ("rs4", 4, True), ("rs16", 16, True),
    ]:  # fmt: skip
        run_folder(runs / name / "seed-0", r=rank, use_rslora=stable)
    found = gather(tmp_path / "s")
    assert found.groups() == {
        "lora-r4": "LoRA", "lora-r16": "LoRA", "lora-r4-tuned": "LoRA tuned", "lora-r16-tuned": "LoRA tuned",
        "rs4": "rsLoRA", "rs16": "rsLoRA",
    }  # fmt: skip
    assert ranks(found), "each line has one variant at a rank"
    for number in range(6):
        run_folder(runs / f"lora-r4-{number}" / "seed-0", r=4)
    assert set(gather(tmp_path / "s").groups().values()) == {"LoRA", "rsLoRA"}, "more groups than colours"
    assert not ranks(gather(tmp_path / "s")), "variants would hide each other"
