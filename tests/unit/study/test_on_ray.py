# SPDX-License-Identifier: Apache-2.0
"""Runs as tasks of a Ray cluster: a local one where Ray is installed, and what is said where it is not."""

from __future__ import annotations

import json
import sys

import pytest
from tests.runs import tree

from luthier.core.errors import MissingExtra, RecipeError
from luthier.study import compare


@pytest.fixture
def study(tiny_llama, alpaca_file, tmp_path):
    suite = tmp_path / "mine.jsonl"
    suite.write_text(json.dumps({"prompt": "1+1?", "answer": "2"}) + "\n", encoding="utf-8")
    base = tree(tiny_llama, alpaca_file, tmp_path / "unused")
    del base["output_dir"]
    return {
        "base": base,
        "variants": {"r2": {"method.r": 2}, "bad": {"method.target_modules": ["no_such_layer"]}},
        "include_base": False,
        "evaluate": str(suite),
        "output_dir": str(tmp_path / "study"),
    }


def test_an_unknown_place_is_named(study):
    with pytest.raises(RecipeError, match="compare on: unknown place 'rya'; did you mean 'ray'"):
        compare(study, on="rya")


def test_without_ray_it_says_how_to_get_it(study, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingExtra, match=r"--on ray: the package 'ray' is not installed; .* pip install 'luthier\[ray\]'"
    ):
        compare(study, on="ray")
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of which it has many
def test_a_local_cluster_gives_the_results_of_this_process(study, tmp_path):
    pytest.importorskip("ray")
    alone = compare({**study, "output_dir": str(tmp_path / "alone")})
    said: list[str] = []
    there = compare(study, on="ray", say=said.append)
    assert [run.variant for run in there.runs] == ["r2", "bad"]
    assert there.runs[0].summary["final_loss"] == alone.runs[0].summary["final_loss"]
    assert there.runs[0].right["mine"].tolist() == alone.runs[0].right["mine"].tolist()
    assert "no_such_layer" in there.runs[1].error
    assert any(line.startswith("[1/2] r2, seed 0: mine") for line in said)
    assert compare(study).runs[0].reused
