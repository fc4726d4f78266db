# SPDX-License-Identifier: Apache-2.0
"""Runs on a quantised base, from training to merged model: what is remembered, which base is written, and why."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tests.runs import tree

import luthier
from luthier.core.errors import RunFailed
from luthier.export import merge
from luthier.export.merge import merge_run
from luthier.models.quantized import is_quantized
from luthier.recipe import load_recipe

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_llama, alpaca_file):
    place = tmp_path_factory.mktemp("runs") / "qlora"
    keys = {"quantization": "nf4", "bnb_4bit_use_double_quant": True, "model_name_or_path": str(tiny_llama)}
    recipe = tree(
        tiny_llama, alpaca_file, place, model=keys, method={"name": "lora", "r": 4, "modules_to_save": ["o_proj"]}
    )
    return luthier.train(load_recipe(recipe | {"optim": {"learning_rate": 0.02}}))


def logits(model):
    ids = torch.tensor([[5, 17, 250, 33, 8, 91, 120, 7]])
    return model.eval()(input_ids=ids, use_cache=False).logits.float()


def test_a_run_is_loaded_on_the_base_that_it_was_trained_on(run, tmp_path):
    assert not is_quantized(run.model.model.layers[0].self_attn.o_proj)
    assert is_quantized(run.model.model.layers[0].mlp)
    shutil.copytree(run.folder / "adapter", tmp_path / "alone")
    for place in (run.folder, tmp_path / "alone"):  # by its recipe, and by what stands beside the adapter
        model, _ = luthier.load(place, dtype="float32")
        assert is_quantized(model)
        with torch.no_grad(), luthier.models.serving(run.model) as trained, luthier.models.serving(model):
            torch.testing.assert_close(logits(model), logits(trained), atol=1e-5, rtol=0)


def test_the_nearer_of_two_bases_is_written_and_both_are_told(run, tmp_path):
    said: list[str] = []
    done = merge_run(run.folder, tmp_path / "merged", say=said.append)
    told = json.loads((tmp_path / "merged" / "merge_proof.json").read_text())
    assert told["base_weights"] == "dequantized"
    assert told["bases"]["dequantized"]["mean_kl"] < 1e-6 < told["bases"]["16-bit"]["mean_kl"]
    assert done.proof.holds
    assert any(line.startswith("on the 16-bit base: ") for line in said)
    assert any(line.startswith("the dequantized base is written") for line in said)
    merged, _ = luthier.load(tmp_path / "merged", dtype="float32")
    assert not is_quantized(merged)
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    with torch.no_grad(), luthier.models.serving(run.model) as trained, luthier.models.serving(merged):
        torch.testing.assert_close(logits(merged), logits(trained), atol=1e-4, rtol=0)


def test_where_the_sixteen_bit_base_is_nearer_it_is_written(run, tmp_path, monkeypatch):
    load_base = merge.load_base

    def broken(origin, dtype="auto"):
        model, written = load_base(origin, dtype)
        if is_quantized(model) and calls.append(1) is None and len(calls) > 1:  # the first is the trained model
            model.model.norm.weight.data.mul_(3)
        return model, written

    calls: list[int] = []
    monkeypatch.setattr(merge, "load_base", broken)
    with pytest.raises(RunFailed, match="the written model is not the trained one"):
        merge_run(run.folder, tmp_path / "merged", bound=1e-9)
    calls.clear()
    done = merge_run(run.folder, tmp_path / "merged", bound=10.0)
    assert json.loads((tmp_path / "merged" / "merge_proof.json").read_text())["base_weights"] == "16-bit"
    assert done.proof.mean_kl > 1e-6
