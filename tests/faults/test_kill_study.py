# SPDX-License-Identifier: Apache-2.0
"""A study killed at random instants and started again loses no finished run and repeats none.

This is the short form of `benchmarks/kill_study.py`, which kills a study of 200 runs 20 times.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runs import tree

from luthier.core.errors import Interrupted
from luthier.engine import folder as run_folder
from luthier.study import compare, one

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_study.py"


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_kills_at_random_instants(tiny_llama, alpaca_file, jobs):
    words = ["--model", tiny_llama, "--rows", alpaca_file, "--variants", 4, "--seeds", 2, "--kills", 2, "--jobs", jobs]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no finished run was lost, none was repeated" in done.stdout


@pytest.fixture
def study(tiny_llama, alpaca_file, tmp_path):
    suite = tmp_path / "mine.jsonl"
    suite.write_text(json.dumps({"prompt": "1+1?", "answer": "2"}) + "\n", encoding="utf-8")
    base = tree(tiny_llama, alpaca_file, tmp_path / "unused")
    return {
        "base": {key: value for key, value in base.items() if key != "output_dir"},
        "variants": {"only": {}},
        "include_base": False,
        "evaluate": str(suite),
        "output_dir": str(tmp_path / "study"),
    }


def _weights(study):
    file = next(Path(study["output_dir"]).glob("runs/only/seed-0/adapter/*.safetensors"))
    return file.stat().st_mtime_ns, file.read_bytes()


def test_a_run_that_ended_but_was_not_filed_is_not_trained_again(study, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(one, "write_summary", killed)  # the instant between the engine's summary and the study's
        with pytest.raises(Interrupted):
            compare(study)
    before = _weights(study)
    result = compare(study)
    assert _weights(study) == before
    assert result.runs[0].right["mine"].size == 1
    assert result.runs[0].summary["inputs"]


def test_an_ended_run_on_other_rows_is_not_passed_off_as_this_one(study, monkeypatch, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(Path(study["base"]["data"]["train"]).read_bytes())
    study["base"]["data"]["train"] = str(rows)
    compare(study)
    before = _weights(study)
    rows.write_text("\n".join(rows.read_text("utf-8").splitlines()[:30]) + "\n", encoding="utf-8")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(one, "train", killed)  # after the folder was made ready, before training began
        with pytest.raises(Interrupted):
            compare(study)
    compare(study)
    assert _weights(study)[1] != before[1]


def test_a_kill_while_a_folder_is_made_ready(study, monkeypatch):
    compare(study)
    before = _weights(study)
    real = run_folder.clear

    def half(folder):
        real(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("luthier.study.record.clear", half)
        with pytest.raises(Interrupted):
            compare(study, ["base.optim.learning_rate=0.01"])
    compare(study, ["base.optim.learning_rate=0.01"])
    assert _weights(study)[1] != before[1]
