# SPDX-License-Identifier: Apache-2.0
"""What every method keeps in whole runs: stopped and resumed, loaded, merged, with less memory, of reward models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.contract.test_methods import KINDS, NEEDS, VARIANTS, _batch, apply
from tests.reward import base, reward, shake
from tests.runs import bits, stop_before, tree
from tests.tiny import tiny

import luthier
from luthier.core.errors import UserError
from luthier.core.trainable import Trainable
from luthier.export.adapter import load_adapter
from luthier.export.merge import merge_run
from luthier.models import scored_logprobs, serving
from luthier.models.generate import generate
from luthier.models.heads import HEADS
from luthier.models.recomputing import recompute_layers
from luthier.models.values import segment_values

each = pytest.mark.parametrize("name", KINDS)


def applied(name: str, model) -> Trainable:
    torch.manual_seed(0)
    return apply(name, model)


def logits(model) -> torch.Tensor:
    with serving(model):
        return model(input_ids=torch.arange(3, 40)[None].to(model.device), use_cache=False).logits


@each
def test_a_run_stops_goes_on_loads_and_merges(name, tiny_llama, alpaca_file, tmp_path):
    method, keys = VARIANTS.get(name, (name, {}))
    words = {"name": method, **keys, **NEEDS.get((name, "llama"), {})}

    def recipe(folder: str):
        train = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2}
        return tree(tiny_llama, alpaca_file, tmp_path / folder, method=words, train=train)

    result = luthier.train(recipe("whole"))
    stop_before(3, recipe("stopped"))
    luthier.train(recipe("stopped"), resume=True)
    again = luthier.train(recipe("whole"), resume=True)  # finished: read from its folder
    assert bits(tmp_path / "whole") == bits(tmp_path / "stopped")
    trained, (loaded, tokenizer) = logits(result.model), luthier.load(tmp_path / "whole")
    assert (logits(loaded) - trained).abs().max() <= 1e-5
    assert (logits(again.model) - trained).abs().max() <= 1e-5
    assert len(generate(loaded, tokenizer, ["What is two and two?"], max_new_tokens=3, raw=True)) == 1
    if result.trainable.folder == "adapter":
        _merges_or_says_why_not(tmp_path / "whole", trained)


def _merges_or_says_why_not(run: Path, trained: torch.Tensor) -> None:
    try:
        merged = merge_run(run)
    except UserError:  # a method that cannot be merged says so, and leaves nothing
        assert not (run / "merged").exists()
        return
    assert (logits(luthier.load(merged.folder, "float32")[0]) - trained).abs().max() <= 1e-4


@each
def test_recomputed_layers_give_the_same_gradients(name):
    found = []
    for recomputed in (False, True):
        model = tiny("llama")
        model.set_attn_implementation("luthier")
        trainable = applied(name, model)
        shake(trainable.parameters().values(), 0.05)
        recompute_layers(model.train(), recomputed)
        torch.manual_seed(0)
        (-scored_logprobs(model, _batch()).sum()).backward()
        found.append({key: parameter.grad for key, parameter in trainable.parameters().items()})
    torch.manual_seed(0)
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@each
def test_a_reward_models_head_trains_and_is_saved(name, tmp_path):
    """The head is drawn anew for these answers: whatever the method, it has to learn them."""
    model = reward(base(tmp_path / "base"))
    trainable = applied(name, model)
    assert any(key.endswith(f"{head}.weight") for key in trainable.parameters() for head in HEADS)
    shake(trainable.parameters().values(), 0.05)
    (tmp_path / "saved").mkdir()
    trainable.save(tmp_path / "saved")
    with torch.no_grad():
        wanted = segment_values(model.eval(), _batch())
        if trainable.folder == "model":
            again = reward(tmp_path / "saved")
        else:
            again = reward(tmp_path / "base")
            load_adapter(again, tmp_path / "saved")
        assert (segment_values(again.eval(), _batch()) - wanted).abs().max() <= 1e-5
