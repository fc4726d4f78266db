# SPDX-License-Identifier: Apache-2.0
"""One run of a study is stopped: the others are done, it is shown with the reason, and the same call finishes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.engine import cohort, loop
from luthier.engine.presence import ask_to_stop
from luthier.study import compare
from luthier.web.gather import gather


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True])
def test_one_run_is_stopped_and_the_study_goes_on(tiny_llama, alpaca_file, tmp_path, monkeypatch, together):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "1+1?", "answer": "2"}) + "\n", "utf-8")
    study = {
        "base": {
            "model": {"model_name_or_path": str(tiny_llama), "dtype": "float32"},
            "data": {"train": str(alpaca_file), "max_length": 96},
            "train": {"max_steps": 3, "per_device_train_batch_size": 1},
        },
        "variants": {"r2": {"method.r": 2}, "r4": {"method.r": 4}, "r8": {"method.r": 8}},
        "evaluate": str(tmp_path / "mine.jsonl"),
        "together": together,
        "output_dir": str(tmp_path / "study"),
    }
    step, update = loop._one_step, cohort.update

    def one_step(work, state):
        step(work, state)
        ask(work)

    def shared_step(work, *rest):
        update(work, *rest)
        ask(work)

    def ask(work):
        if "r4" in Path(work.folder).parts:
            ask_to_stop(work.folder)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_one_step", one_step)
        patch.setattr(cohort, "update", shared_step)
        result = compare(study)
    assert [run.variant for run in result.failed] == ["r4"]
    assert "stopped after step 1 of 3, which is saved" in result.failed[0].error
    states = {run.variant: run.state for run in gather(tmp_path / "study").runs}
    assert states == {"base": "done", "r2": "done", "r4": "stopped", "r8": "done"}

    said: list[str] = []
    again = compare(study, say=said.append)
    assert not again.failed
    assert any("going on after step 1 of 3" in line for line in said)
    assert [run.reused for run in again.runs] == [True, True, False, True]
