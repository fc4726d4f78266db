# SPDX-License-Identifier: Apache-2.0
"""What every method keeps, whichever it is: a new file in methods/ is tested here without an edit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.tiny import tiny
from transformers import AutoModelForCausalLM

from luthier.core import registry
from luthier.core.errors import LuthierError, UserError
from luthier.core.trainable import Trainable
from luthier.core.types import Segment, Tree
from luthier.export.adapter import load_adapter
from luthier.kernels.forest import Forest, plant
from luthier.models import scored_logprobs

METHODS = list(registry.entries("methods"))
# Keys that make another method of one: they keep the same contract.
VARIANTS = {
    "dora": ("lora", {"use_dora": True, "r": 4}),
    "pissa": ("lora", {"init_lora_weights": "pissa", "r": 4}),
    "olora": ("lora", {"init_lora_weights": "olora", "r": 4, "use_rslora": True}),
}
KINDS = [*METHODS, *VARIANTS]
FAMILIES = ["llama", "tied", "gpt2"]
NO_PAPER = {"full"}
LLAMA = {"add_biases": True}  # Llama has no biases, and then it says so (tests/unit/methods/test_bitfit.py)
NEEDS = {("bitfit", "llama"): LLAMA, ("bitfit", "tied"): LLAMA}
# Few numbers far from the loss: their papers train them with rates of 0.3 (prompt tuning) down to 1e-4 (an encoder).
RATES = {
    "prompt": 0.3,
    "prefix": 0.1,
    "ptuning": 0.01,
    "norm": 2e-2,
    "ia3": 2e-2,
    "adapter": 2e-2,
    "vera": 2e-2,
    "llama_adapter": 0.1,
}
each = pytest.mark.parametrize("name", METHODS)
each_kind = pytest.mark.parametrize("name", KINDS)
everywhere = pytest.mark.parametrize("family", FAMILIES)


def _batch() -> Forest:
    random = np.random.default_rng(3)
    trees = [
        Tree(segments=(Segment(ids=random.integers(3, 60, n).astype(np.int32), scored=np.ones(n, bool)),))
        for n in (9, 14, 5)
    ]
    return plant(trees)


def _logps(model) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return scored_logprobs(model, _batch())


def _applied(name: str, family: str) -> tuple[Trainable, torch.Tensor]:
    """A method on a model, and what the model said before."""
    model = _ready(tiny(family))
    before = _logps(model)
    torch.manual_seed(0)
    return apply(name, model, family), before


def apply(name: str, model, family: str = "llama") -> Trainable:
    name, keys = VARIANTS.get(name, (name, {}))
    method = registry.get("methods", name)
    return method.apply(model, method.Config(**keys, **NEEDS.get((name, family), {})))


def _ready(model):
    model.set_attn_implementation("luthier")
    return model


def _train(trainable: Trainable, steps: int, rate: float = 5e-3) -> list[float]:
    trainable.model.train()
    optimizer = torch.optim.AdamW(trainable.parameters().values(), lr=rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = -scored_logprobs(trainable.model, _batch()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@each
def test_it_says_what_it_is(name):
    method = registry.get("methods", name)
    fields = method.Config.model_fields
    assert method.apply.__doc__
    assert {key for key, field in fields.items() if not (field.description or "").endswith((".", "`."))} == set()
    papers = (method.__doc__ or "") + method.apply.__doc__
    assert "arXiv" in papers or name in NO_PAPER
    assert not {key for key in fields if key == "name"}, "`name` is the recipe's own key"


@each
def test_unknown_keys_are_refused(name):
    with pytest.raises(ValidationError, match="surely_not_a_key"):
        registry.get("methods", name).Config(surely_not_a_key=1)


@each_kind
@everywhere
def test_it_starts_as_the_base_or_says_that_it_does_not(name, family):
    trainable, before = _applied(name, family)
    apart = (_logps(trainable.model) - before).abs().max()
    assert apart <= 1e-6 if trainable.starts_as_base else apart > 0.01


@each_kind
def test_the_seed_decides_the_start(name):
    first, second = (_applied(name, "llama")[0].parameters() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@each_kind
@everywhere
def test_only_what_it_declares_trains(name, family):
    trainable, _ = _applied(name, family)
    declared = {id(p) for p in trainable.parameters().values()}
    assert {id(p) for p in trainable.model.parameters() if p.requires_grad} == declared
    assert trainable.num_trainable == sum(p.numel() for p in trainable.model.parameters() if p.requires_grad)
    before = {n: p.detach().clone() for n, p in trainable.model.named_parameters()}
    _train(trainable, 2)  # in the first step of LoRA only B moves
    moved = {n for n, p in trainable.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in trainable.model.named_parameters() if id(p) in declared}


@each_kind
@everywhere
def test_the_loss_falls(name, family):
    losses = _train(_applied(name, family)[0], 20, RATES.get(name, 5e-3))
    assert losses[-1] < 0.9 * losses[0]


@each_kind
@everywhere
def test_saved_and_loaded_it_says_the_same(name, family, tmp_path):
    trainable, _ = _applied(name, family)
    _train(trainable, 3)
    trainable.save(tmp_path)
    assert (_logps(_loaded(trainable, family, tmp_path)) - _logps(trainable.model)).abs().max() <= 1e-6


def _loaded(trainable: Trainable, family: str, folder: Path):
    if trainable.folder == "model":
        return _ready(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    model = _ready(tiny(family))
    load_adapter(model, folder)
    return model


@each_kind
@everywhere
def test_merged_it_says_the_same(name, family, tmp_path):
    trainable, _ = _applied(name, family)
    _train(trainable, 3)
    trained = _logps(trainable.model)
    try:
        merged = trainable.merge()
    except UserError:  # a method that cannot be merged says so
        return
    assert (_logps(merged) - trained).abs().max() <= 1e-5
    merged.save_pretrained(tmp_path)
    plain = _ready(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32))
    assert {n for n, _ in merged.named_parameters()} == {n for n, _ in plain.named_parameters()}
    assert (_logps(plain) - trained).abs().max() <= 1e-5


@each_kind
@everywhere
def test_switched_off_it_is_the_base(name, family):
    trainable, before = _applied(name, family)
    with trainable.disabled():
        assert (_logps(trainable.model) - before).abs().max() <= 1e-6
    if trainable.folder == "model":  # the base's numbers are gone after a step, and it says so
        _train(trainable, 1)
        with pytest.raises(LuthierError, match="overwritten by training"), trainable.disabled():
            pass
        return
    _train(trainable, 3)
    trained = _logps(trainable.model)
    with trainable.disabled():
        assert (_logps(trainable.model) - before).abs().max() <= 1e-6
    assert torch.equal(_logps(trainable.model), trained)
