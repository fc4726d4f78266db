# SPDX-License-Identifier: Apache-2.0
"""The ready studies as a user types them, with one step, one seed and few values to choose from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from luthier.cli import main

ROOT = Path(__file__).parents[2]
ONE = ["seeds=[0]", "items=3", "jobs=1"]
CHOICE = "tune.keys.optim.learning_rate=[1e-3]"
WORDS = {
    "rank": [CHOICE, "budget.steps=1"],
    "full-or-lora": [CHOICE, "base.train.max_steps=1"],
    "math-increment": ["start.train.max_steps=1", "budget.steps=1"],
    "methods": [CHOICE, "budget.scored_tokens=90"],
}

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.parametrize("name", WORDS)
def test_a_ready_study_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["compare", str(ROOT / "studies" / f"{name}.yaml"), *ONE, *WORDS[name], "--quiet", "--json"])
    tree = json.loads(capsys.readouterr().out)
    given = yaml.safe_load((ROOT / "studies" / f"{name}.yaml").read_text("utf-8"))
    study = yaml.safe_load((tmp_path / given["output_dir"] / "study.yaml").read_text("utf-8"))
    suites = [run["evaluation"] for run in tree["runs"]]
    assert all(set(found) == {f"{suite}-first-3" for suite in given["evaluate"]} for found in suites)
    assert [run["variant"] for run in tree["runs"]] == ["base", *study["variants"]]
    assert not any(run.get("error") for run in tree["runs"])
    assert len(study["claims"]) == len(given["claims"])
    assert all(run["flops"] > 0 for run in tree["runs"][1:])
    # no path of this machine in what a run keeps: shipped sets and models have names
    for recipe in (tmp_path / given["output_dir"]).rglob("recipe.yaml"):
        assert str(ROOT) not in recipe.read_text("utf-8")
