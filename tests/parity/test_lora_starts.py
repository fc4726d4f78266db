# SPDX-License-Identifier: Apache-2.0
"""`init_lora_weights`: the same starts as PEFT, the same training, and folders that fit the plain base."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.reward import shake
from tests.tiny import tiny

from luthier.core.errors import RecipeError
from luthier.export.adapter import fill_adapter, load_adapter
from luthier.methods import lora
from luthier.methods._lowrank import LinearUpdate
from luthier.methods._starts import from_base

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 58, 9, 7, 0, 31, 12]])
STARTS = [
    ("llama", "pissa", {"r": 4, "lora_alpha": 6.0}),
    ("llama", "olora", {"r": 4, "lora_alpha": 6.0}),
    ("qwen2", "pissa", {"r": 3, "lora_alpha": 2.0, "use_rslora": True}),
    ("gpt2", "pissa", {"r": 4, "lora_alpha": 4.0}),  # PEFT's olora does not turn Conv1D's matrix round, and fails
]
each = pytest.mark.parametrize(("family", "start", "keys"), STARTS)


def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits


def both(family: str, start: str, keys: dict):
    torch.manual_seed(0)
    theirs = get_peft_model(
        tiny(family),
        LoraConfig(**keys, init_lora_weights=start, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    ours = lora.apply(tiny(family), lora.Config(**keys, init_lora_weights=start))
    return ours, theirs


@each
def test_the_start_is_pefts_and_the_base_is_left_alone(family, start, keys):
    ours, theirs = both(family, start, keys)
    before = tiny(family)
    assert torch.equal(logits(ours.model), logits(before))
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.parameters().items():
        there = wanted[f"base_model.model.{name}".replace(".weight", ".default.weight")]
        assert (parameter - there).abs().max() <= 1e-5, name
    kept = dict(ours.model.named_parameters())
    for name, parameter in before.named_parameters():
        layer = name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
        assert torch.equal(kept.get(layer, kept.get(name)), parameter)


@each
def test_training_moves_both_alike(family, start, keys, tmp_path):
    ours, theirs = both(family, start, keys)
    init = tmp_path / "init"
    theirs.peft_config["default"].init_lora_weights = True  # as PEFT's guide has it, for the conversion at the end
    theirs.save_pretrained(init)
    theirs.peft_config["default"].init_lora_weights = start
    for model in (ours.model, theirs):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        for _ in range(4):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits(model)[0, :-1], IDS[0, 1:]).backward()
            optimizer.step()
    with torch.no_grad():
        here, there = logits(ours.model), logits(theirs)
        assert (here - logits(tiny(family))).abs().max() > 0.02
        assert (here - there).abs().max() <= 1e-4
        _folders_fit_the_plain_base(ours, theirs, here, there, family, keys, tmp_path)
        with ours.disabled():
            assert torch.equal(logits(ours.model), logits(tiny(family)))
        assert (logits(ours.merge()) - here).abs().max() <= 1e-5


def _folders_fit_the_plain_base(ours, theirs, here, there, family, keys, folder) -> None:
    (folder / "ours").mkdir()
    ours.save(folder / "ours")
    assert (logits(PeftModel.from_pretrained(tiny(family), folder / "ours")) - here).abs().max() <= 1e-5
    again = tiny(family)
    load_adapter(again, folder / "ours")
    assert (logits(again) - here).abs().max() <= 1e-5
    theirs.save_pretrained(folder / "theirs", path_initial_model_for_weight_conversion=str(folder / "init"))
    converted = tiny(family)
    load_adapter(converted, folder / "theirs")
    assert (logits(converted) - there).abs().max() <= 1e-4


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_training_goes_on_from_a_folder(start, tmp_path):
    config = lora.Config(r=4, init_lora_weights=start, target_modules="attention", rank_pattern={"v_proj": 2})
    trained = lora.apply(tiny("llama"), config)
    shake(trained.parameters().values(), 0.02)
    trained.save(tmp_path)
    again = lora.apply(tiny("llama"), config)
    fill_adapter(again, tmp_path)
    with torch.no_grad():
        assert (logits(again.model) - logits(trained.model)).abs().max() <= 1e-5
    for name, parameter in trained.parameters().items():
        assert (again.parameters()[name] - parameter).abs().max() <= 1e-6
    with pytest.raises(RecipeError, match=r"has r 8 .* the recipe 4 and"):
        fill_adapter(lora.apply(tiny("llama"), lora.Config(r=4, target_modules="attention")), tmp_path)


def test_small_steps_count_beside_a_bfloat16_base():
    """A moves by less than half a bfloat16 step of its numbers; as a difference of two roundings it would be lost."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        trainable = lora.apply(tiny("llama").to(dtype), lora.Config(r=4, init_lora_weights="pissa"))
        layer = trainable.model.model.layers[0].self_attn.q_proj
        x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
        with torch.no_grad():
            assert torch.equal(layer(x), layer.base_layer(x))
            layer.lora_A.mul_(1 + 2.0**-11)
            a, b = layer.pair()
            found.append((x @ a.to(dtype).T @ b.to(dtype).T).float())
    assert found[0].abs().max() > 0
    assert (found[0] - found[1]).abs().max() <= 0.05 * found[0].abs().max()


def test_gaussian_is_a_normal_a_and_a_zero_b():
    layers = lora.apply(tiny("llama"), lora.Config(r=8, init_lora_weights="gaussian")).model.modules()
    drawn = [layer for layer in layers if isinstance(layer, LinearUpdate)]
    numbers = torch.cat([layer.lora_A.detach().flatten() for layer in drawn])
    assert len(numbers) > 3000
    assert abs(float(numbers.std()) * 8 - 1) < 0.05
    assert abs(float(numbers.mean())) < 0.01
    assert float((numbers.abs() > 2 / 8).float().mean()) == pytest.approx(0.0455, abs=0.015)
    assert all((layer.lora_B == 0).all() for layer in drawn)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_a_full_rank_start_is_the_whole_matrix(kind, shape):
    weight = torch.randn(shape, dtype=torch.float64)
    a, b = from_base(weight, 6, 0.7, kind)
    product = b @ a * (0.7 if kind == "pissa" else 1.0)
    torch.testing.assert_close(product, weight, atol=1e-12, rtol=0)


@pytest.mark.parametrize("keys", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_what_cannot_go_with_a_start_from_the_base(keys):
    with pytest.raises(RecipeError, match="with init_lora_weights: pissa; one of them"):
        lora.apply(tiny("llama"), lora.Config(init_lora_weights="pissa", **keys))
