# SPDX-License-Identifier: Apache-2.0
"""Variants of a task are compared by its own metric, row by row, on a file of rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import luthier
from luthier.core.errors import RecipeError
from luthier.evaluate import evaluate, load_suite
from luthier.evaluate.reader import Reader
from luthier.evaluate.samples import read_samples
from luthier.evaluate.trained import judge, predict
from luthier.models import load_model, load_tokenizer
from luthier.models.purpose import Purpose
from luthier.recipe import Model
from luthier.recipe.schema import Source

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
    assert result.variants == ["r4", "norm"]
    assert "left out: embedded-tiny has no trained head for TOKEN_CLS" in report
    again = luthier.compare(study)
    assert all(run.reused for run in again.runs)


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"include_base": True}, "include_base.*leave include_base out"),
        ({"baseline": "base"}, "baseline.*name a variant"),
        ({"claims": [{"better": "r4", "than": "base"}]}, r"claims\.0.*name a variant"),
    ],
)
def test_a_model_without_a_head_is_no_baseline(study, asked, where):
    with pytest.raises(RecipeError, match=f"study {where}"):
        luthier.compare(study | asked)


def test_a_head_that_was_trained_before_has_a_score(study, tmp_path):
    recipe = study["base"] | {"method": {"name": "full"}, "output_dir": str(tmp_path / "first")}
    luthier.train(recipe)
    model = study["base"]["model"] | {"model_name_or_path": str(tmp_path / "first/model")}
    one = {"base": study["base"] | {"model": model}, "variants": {"norm": study["variants"]["norm"]}}
    result = luthier.compare(study | one, ["base.train.max_steps=1"])
    first, suite = tmp_path / "first", load_suite({"task": study["evaluate"]}, rows="tagged")
    kept = evaluate(*luthier.load(first), suite, folder=first)
    assert result.variants == ["base", "norm"]
    assert result.score("base").value == pytest.approx(kept.estimate.value, abs=1e-6)


def test_vectors_have_a_score_before_training(study):
    """That of the untouched model, pooled as the recipe says."""
    base = study["base"] | {"objective": {"name": "cosine", "score_range": [0, 5], "pooling": "last"}}
    base |= {"data": {"train": "embedded:similar_train", "max_length": 128}, "train": {"max_steps": 1}}
    base |= {"model": study["base"]["model"] | {"task_type": "FEATURE_EXTRACTION"}}
    variants = {"norm": study["variants"]["norm"]}
    result = luthier.compare(study | {"base": base, "variants": variants, "evaluate": "embedded:similar_test"})
    chosen = Model(model_name_or_path="embedded-tiny")
    model = load_model(chosen, torch.float32, task="FEATURE_EXTRACTION")
    purpose = Purpose(task="FEATURE_EXTRACTION", objective=base["objective"])
    reader = Reader(model=model, tokenizer=load_tokenizer("embedded-tiny"), purpose=purpose)
    rows = read_samples(Source(path="embedded:similar_test"), "texts").every
    found = judge(reader, rows, predict(reader, rows))
    assert result.score("base").value == pytest.approx(found.value, abs=1e-4)  # runs have fused norms
