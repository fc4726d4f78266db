# SPDX-License-Identifier: Apache-2.0
"""A study of preference objectives, by real runs of a tiny model: its budget counts what each of them sees."""

from __future__ import annotations

import json

import pytest
import yaml

from luthier.study import compare
from luthier.study.design import design
from luthier.study.schema import load_study


@pytest.fixture
def study(tiny_llama, tmp_path):
    """Another tool's recipe as the base, told as a file."""
    rows = [
        {"prompt": f"{n} and {n}?", "chosen": f"{2 * n}", "rejected": "It is some number or other."} for n in range(24)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "1 and 1?", "answer": "2"}) + "\n", encoding="utf-8")
    flat = {
        "model_name_or_path": str(tiny_llama),
        "use_peft": True,
        "lora_r": 2,
        "lora_target_modules": "all-linear",
        "dataset_name": str(tmp_path / "pairs.jsonl"),
        "max_length": 96,
        "beta": 0.2,
        "per_device_train_batch_size": 2,
        "log_level": "info",
    }
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump(flat), encoding="utf-8")
    return {
        "base": str(tmp_path / "flat.yaml"),
        "variants": {"dpo": {}, "kto": {"objective": "kto"}, "reward": {"objective": "reward"}},
        "evaluate": str(tmp_path / "mine.jsonl"),
        "include_base": False,
        "output_dir": str(tmp_path / "study"),
    }


def test_a_variant_of_another_objective_keeps_the_rest_of_a_translated_base(study):
    plan = design(load_study(study))
    dpo, kto, _ = (run.resolved.recipe for run in plan.runs)
    assert (dpo.objective["name"], dpo.objective["beta"]) == ("dpo", 0.2)
    assert (kto.objective["name"], kto.objective["beta"]) == ("kto", 0.1)  # its own default
    assert (kto.method, kto.data) == (dpo.method, dpo.data)


def test_the_budget_counts_what_each_objective_sees(study):
    """KTO's steps hold other rows' answers too."""
    lines, amount = [], 700
    del study["variants"]["reward"]
    result = compare(study, [f"budget={{tokens: {amount}}}"], say=lines.append)
    for run in result.runs:
        seen = [json.loads(line)["tokens"] for line in (run.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        assert amount - 2 * seen[0] < run.summary["tokens"] <= amount, run.variant
    steps = {run.variant: run.summary["steps"] for run in result.runs}
    assert steps["kto"] < steps["dpo"]
    assert sum("no effect here: log_level" in line for line in lines) == 1


def test_a_base_may_be_named_in_a_word(study, tmp_path):
    base = study.pop("base")
    made = load_study(study | {"base": {"model": {"model_name_or_path": "embedded"}}}, [f"base={base}"])
    assert made.base["lora_r"] == 2
