# SPDX-License-Identifier: Apache-2.0
"""What every method keeps on encoder-decoders: a new file in methods/ is tested here without an edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.pairs import some_pairs, tiny_pairs

from luthier.core import registry
from luthier.core.errors import LuthierError, RecipeError
from luthier.export.adapter import load_adapter
from luthier.kernels.forest import plant
from luthier.models import outputs
from luthier.models.recomputing import recompute_layers

if TYPE_CHECKING:
    from pathlib import Path

    from luthier.core.trainable import Trainable

METHODS = list(registry.entries("methods"))
KEYS: dict[tuple[str, str], dict[str, Any]] = {("bitfit", "T5"): {"add_biases": True}}  # T5 has none
RATES = {"prompt": 0.3, "prefix": 0.1, "ptuning": 0.01, "norm": 2e-2, "ia3": 2e-2, "adapter": 2e-2}
# Methods for decoders alone, and how they say so.
REFUSED = {"llama_adapter": "an encoder-decoder"}
families = pytest.mark.parametrize("family", ["T5", "BART"])
each = pytest.mark.parametrize("name", METHODS)


def applied(name: str, family: str) -> Trainable:
    method = registry.get("methods", name)
    torch.manual_seed(0)
    trainable: Trainable = method.apply(tiny_pairs(family), method.Config(**KEYS.get((name, family), {})))
    return trainable


def loss(trainable: Trainable) -> torch.Tensor:
    model: Any = trainable.model
    return -outputs(model, plant(some_pairs(6))).mean()


def trained(name: str, family: str, steps: int = 20) -> tuple[Trainable, list[float]]:
    trainable = applied(name, family)
    trainable.model.train()
    optimizer = torch.optim.AdamW(trainable.parameters().values(), lr=RATES.get(name, 5e-3), weight_decay=0.0)
    losses = []
    for _ in range(steps):
        now = loss(trainable)
        optimizer.zero_grad()
        now.backward()
        optimizer.step()
        losses.append(float(now.detach()))
    return trainable, losses


@each
@families
def test_it_learns_saves_loads_and_can_be_switched_off(name: str, family: str, tmp_path: Path) -> None:
    if name in REFUSED:
        with pytest.raises(LuthierError, match=REFUSED[name]):
            applied(name, family)
        return
    before = float(loss(applied("full", family)).detach())
    start = applied(name, family)
    assert (abs(float(loss(start).detach()) - before) < 1e-5) == start.starts_as_base
    trainable, losses = trained(name, family)
    assert losses[-1] < 0.95 * losses[0]
    trainable.model.eval()
    with torch.no_grad():
        now = float(loss(trainable))
        if trainable.folder == "model":
            return
        trainable.save(tmp_path)
        again = load_adapter(tiny_pairs(family), tmp_path)
        again.model.eval()
        assert float(loss(again)) == pytest.approx(now, abs=1e-6)
        with trainable.disabled():
            assert float(loss(trainable)) == pytest.approx(before, abs=1e-6)


@each
@families
def test_recomputing_layers_gives_the_same_gradient(name: str, family: str) -> None:
    if name in REFUSED:
        return
    gradients = []
    for on in (False, True):
        trainable = applied(name, family)
        trainable.model.train()
        if on:
            recompute_layers(trainable.model)  # type: ignore[arg-type]
        if on and name == "prefix":  # its keys stand in a cache, which layers that are run again would fill twice
            with pytest.raises(LuthierError, match="gradient_checkpointing to false"):
                loss(trainable)
            return
        loss(trainable).backward()
        gradients.append([p.grad for p in trainable.parameters().values() if p.grad is not None])
    assert gradients[0]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))


def test_adapters_stand_in_both_stacks_and_not_behind_cross_attention() -> None:
    method = registry.get("methods", "adapter")
    for family, count in (("T5", 2 * 2 * 2), ("BART", 2 * 2 * 2)):
        names = method.apply(tiny_pairs(family), method.Config(placement="houlsby")).parameters()
        assert len(names) == 4 * count
        assert any(".decoder." in f".{name}" for name in names)
        assert any(".encoder." in f".{name}" for name in names)
        assert not [name for name in names if "EncDecAttention" in name or "encoder_attn" in name]


def test_the_last_layers_of_each_stack_train() -> None:
    method = registry.get("methods", "freeze")
    names = method.apply(tiny_pairs("T5"), method.Config(freeze_trainable_layers=1)).parameters()
    assert {name.rsplit(".layer.")[0] for name in names} == {"encoder.block.1", "decoder.block.1"}


def test_words_of_target_modules_reach_both_stacks_and_no_head() -> None:
    from luthier.models.targets import find_targets

    for family, attention, mlp in (("T5", 6 * 4, 4 * 2), ("T5 1.1, Flan-T5", 6 * 4, 4 * 3), ("BART", 6 * 4, 4 * 2)):
        model = tiny_pairs(family)
        assert len(find_targets(model, "attention")) == attention
        assert len(find_targets(model, "mlp")) == mlp
        assert len(find_targets(model, "all-linear")) == attention + mlp


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"target_modules": ["shared"]}, "which nothing reads"),
        ({"modules_to_save": ["shared"]}, "which nothing reads"),
        ({"target_modules": ["lm_head"], "ensure_weight_tying": True}, "three modules or more"),
    ],
)
def test_what_would_change_nothing_is_refused(keys: dict[str, Any], found: str) -> None:
    for family in ("T5", "BART"):
        method = registry.get("methods", "lora")
        with pytest.raises(RecipeError, match=found):
            method.apply(tiny_pairs(family), method.Config(r=4, **keys))


def test_scaled_embeddings_have_no_virtual_tokens() -> None:
    method = registry.get("methods", "prompt")
    with pytest.raises(LuthierError, match="scales the embeddings"):
        method.apply(tiny_pairs("Pegasus"), method.Config())
    with pytest.raises(RecipeError, match="has no biases"):
        registry.get("methods", "bitfit").apply(tiny_pairs("T5"), registry.get("methods", "bitfit").Config())
