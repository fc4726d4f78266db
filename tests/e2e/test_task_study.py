# SPDX-License-Identifier: Apache-2.0
"""Variants of a task are compared by its own metric, row by row, on a file of rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

import luthier
from luthier.core.errors import RecipeError

pytestmark = pytest.mark.e2e


@pytest.fixture
def study(tmp_path):
    base = {
        "model": {"model_name_or_path": "embedded-tiny", "task_type": "TOKEN_CLS", "dtype": "float32"},
        "data": {"train": "embedded:tags_train", "max_length": 128, "doc_stride": 16},
        "optim": {"learning_rate": 3e-3},
        "train": {"max_steps": 6, "per_device_train_batch_size": 1},
    }
    return {
        "base": base,
        "variants": {"r4": {"method.r": 4}, "norm": {"method": {"name": "norm"}}},
        "evaluate": "embedded:tags_test",
        "include_base": False,
        "output_dir": str(tmp_path / "study"),
    }


def test_variants_of_a_task(study, tmp_path):
    result = luthier.compare(study)
    assert not result.failed
    assert result.suites == {"embedded-tags_test": 45}
    for row in result.rows():
        told = json.loads((tmp_path / f"study/runs/{row.variant}/seed-0/summary.json").read_text(encoding="utf-8"))
        found = told["evaluation"]["embedded-tags_test"]
        assert found["metric"] == "f1"
        assert row.score.value == pytest.approx(found["value"], abs=1e-9)
    difference = result.difference("norm", "r4")
    shares = [np.mean(result.verdicts(name)[0]) for name in ("norm", "r4")]
    assert difference.value == pytest.approx(shares[0] - shares[1], abs=1e-9)
    report = (tmp_path / "study/report.md").read_text(encoding="utf-8")
    assert "Score: f1 on the 45 rows of embedded-tags_test" in report
    again = luthier.compare(study)
    assert all(run.reused for run in again.runs)


def test_a_model_without_a_head_is_no_baseline(study):
    with pytest.raises(RecipeError, match=r"study include_base.*write include_base: false"):
        luthier.compare(study | {"include_base": True})
