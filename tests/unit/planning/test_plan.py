# SPDX-License-Identifier: Apache-2.0
"""Plans from a configuration alone: what they hold, what fits, what would, and what machines are."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tests.runs import Command, tree
from transformers import LlamaConfig

import luthier
from luthier.core.errors import UserError
from luthier.methods import lora
from luthier.models import load_model
from luthier.models.fuse import fuse
from luthier.planning.alike import AlikeRows
from luthier.planning.counts import count
from luthier.planning.machines import TABLE, named
from luthier.planning.shadow import shadow_counts
from luthier.recipe import Model

REPOSITORY = Path(__file__).parents[3]
LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA_70B = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}


def folder(path, **sizes):
    """Nothing but a configuration."""
    LlamaConfig(vocab_size=128_256, num_key_value_heads=8, max_position_embeddings=8192, **sizes).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("8b"), **LLAMA_8B)


def recipe(model, rows, out, **sections):
    keys = {"model": {"dtype": "bfloat16"}, "data": {"max_length": 512}}
    return tree(model, rows, out, **(keys | sections))


def test_a_70b_from_its_configuration(alpaca_file, tmp_path):
    said: list[str] = []
    given = recipe(folder(tmp_path, **LLAMA_70B), alpaca_file, tmp_path / "run")
    found = luthier.plan(given, on="8xH200", say=said.append)
    assert found.case.counts.parameters == pytest.approx(70.55e9, rel=1e-3)
    assert found.need.weights == 2 * found.case.counts.parameters
    assert not found.fits  # 141 GB of weights on each device
    assert found.layouts["ZeRO-3 (FSDP)"] < 0.25 * found.layouts["data parallel"]
    assert any("built-in model's tokens" in line for line in said)
    assert any("quantization=nf4" in str(remedy) for remedy in found.remedies)


def test_full_fine_tuning_of_8b(eight, alpaca_file, tmp_path):
    given = recipe(eight, alpaca_file, tmp_path, method="full")
    found = luthier.plan(given, on="H100")
    numbers = 8_030_261_248
    assert found.need.weights == 2 * numbers
    assert found.need.gradients == found.need.masters == 4 * numbers
    assert found.need.optimizer == 8 * numbers
    assert not found.fits
    assert 1 <= len(found.remedies) <= 3
    assert [remedy.seconds for remedy in found.remedies] == sorted(remedy.seconds for remedy in found.remedies)
    assert all(remedy.peak_memory_bytes <= 0.9 * 80e9 for remedy in found.remedies)
    for changed in found.remedies:  # what is said of a way holds when it is taken
        words = [f"{key}={value}" for key, value in changed.keys.items()]
        again = luthier.plan(luthier.recipe.load_recipe(given, words), on="H100")
        assert again.fits
        assert again.peak_memory_bytes == pytest.approx(changed.peak_memory_bytes, rel=0.1)


def test_lora_of_8b_fits_and_checkpointing_follows_the_memory(eight, alpaca_file, tmp_path):
    given = recipe(eight, alpaca_file, tmp_path, data={"max_length": 4096})
    assert luthier.plan(given, on="H100").layers.again == 0
    small = luthier.plan(given, on="L4")
    assert small.fits
    assert small.largest_batch >= 2
    json.dumps(small.to_json())


@pytest.mark.parametrize("name", ["lora", "full", "adapter", "ia3", "vera", "prefix", "prompt", "norm", "freeze"])
def test_counts_of_a_shadow_are_those_of_the_model(name, tiny_llama):
    from luthier.core import registry

    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    fuse(model)
    entry = registry.get("methods", name)
    real = count(entry.apply(model, entry.Config()))
    shadow = shadow_counts(model.config, torch.float32, "CAUSAL_LM", {"name": name})
    assert shadow.parameters == real.parameters
    assert shadow.numbers == real.numbers
    assert shadow.weights == real.weights
    assert shadow.kept.per_token == pytest.approx(real.kept.per_token, rel=0.01)
    assert shadow.rates == real.rates


@pytest.mark.parametrize("name", ["lora", "prefix", "llama_adapter"])
def test_a_cut_counts_as_the_whole(name, monkeypatch):
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=5, num_attention_heads=4, vocab_size=300
    )
    whole = shadow_counts(config, torch.float32, "CAUSAL_LM", {"name": name})
    monkeypatch.setattr("luthier.planning.shadow.WHOLE", 0)
    cut = shadow_counts(config, torch.float32, "CAUSAL_LM", {"name": name})
    assert (cut.parameters, cut.numbers, cut.added) == (whole.parameters, whole.numbers, whole.added)
    assert cut.kept.per_token == pytest.approx(whole.kept.per_token, rel=0.04)
    assert cut.rates.per_token == pytest.approx(whole.rates.per_token, rel=0.02)
    assert cut.rates.per_scored == pytest.approx(whole.rates.per_scored, rel=0.02)
    assert cut.rates.per_pair == pytest.approx(whole.rates.per_pair, rel=0.02)


def test_a_cut_counts_what_is_there_once(monkeypatch):
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=5, num_attention_heads=4, vocab_size=300
    )
    whole = shadow_counts(config, torch.float32, "CAUSAL_LM", {"name": "vera"})
    monkeypatch.setattr("luthier.planning.shadow.WHOLE", 0)
    cut = shadow_counts(config, torch.float32, "CAUSAL_LM", {"name": "vera"})
    assert cut.kept.once == pytest.approx(whole.kept.once, rel=0.02)
    assert whole.kept.once > 0


@pytest.mark.parametrize("name", ["lora", "full", "vera"])
def test_one_column_for_all_is_the_product(name, monkeypatch):
    """What is counted by one column of each product is what is counted by whole products."""
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=300
    )
    quick = shadow_counts(config, torch.bfloat16, "CAUSAL_LM", {"name": name})
    monkeypatch.setattr("luthier.planning.shadow.AlikeRows", nullcontext)
    assert quick == shadow_counts(config, torch.bfloat16, "CAUSAL_LM", {"name": name})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_by_rows_that_are_alike(dtype):
    draw = torch.Generator().manual_seed(0)
    x, bias = (torch.randn(*shape, generator=draw).to(dtype) for shape in ((2, 5, 16), (24,)))
    row = torch.randn(16, generator=draw).to(dtype)
    alike, own = row.expand(24, 16), row.repeat(24, 1)
    for added in (None, bias):
        with AlikeRows():
            found = torch.nn.functional.linear(x, alike, added)
        assert found.is_contiguous()
        step = 1e-5 if dtype == torch.float32 else 2e-2  # a sum with a bias is rounded before and after it
        torch.testing.assert_close(found, torch.nn.functional.linear(x, own, added), rtol=step, atol=step)
    with AlikeRows():
        assert torch.empty(3, device="meta").normal_().is_meta


def test_a_run_ends_with_its_plan(tiny_llama, alpaca_file, tmp_path):
    said: list[str] = []
    summary = luthier.train(tree(tiny_llama, alpaca_file, tmp_path / "run"), say=said.append).summary
    told = summary["plan"]
    assert told["peak_memory_bytes"] == max(told["memory"]["phases"].values())
    assert told["seconds"] > 0
    every = {"layers": 2, "kept": 2, "recomputed": 0, "offloaded": 0, "places": [], "why": "auto: it fits as it is"}
    assert told["activations"] == every
    assert told["measured"]["seconds"] == summary["seconds"]
    assert set(summary["memory"]) == {"load", "step", "save"}
    assert any(line.startswith("memory: ") and "planned" in line for line in said)


def test_machines():
    assert named("2xT4").memory == TABLE["T4"]["memory"]
    assert named("A100").name == "A100-80GB"
    for wrong in ("", "0xH100", "H1000", "8x"):
        with pytest.raises(UserError, match="--on: received"):
            named(wrong)


def test_the_command(eight, alpaca_file, tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe(eight, alpaca_file, tmp_path / "run")))
    command = Command(capsys)
    shown = command("plan", file, "--on", "2xA100-80GB")
    assert shown.code == 0
    assert "It fits" in shown.out
    assert "with ZeRO-3 (FSDP)" in shown.out
    found = json.loads(command("plan", file, "method.r=8", "--on", "2xA100-80GB", "--json").out)
    assert found["fits"]
    assert found["machine"]["count"] == 2
    assert command("plan", file, "--on", "abacus").code == 2


def test_lora_counts(tiny_llama):
    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    counts = count(lora.apply(model, lora.Config(r=4)))
    assert counts.added == 4 * counts.numbers
    assert counts.weights == 4 * counts.parameters


def test_the_ready_70b(capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    command = Command(capsys)
    file = "recipes/at-scale/qlora-70b.yaml"
    assert json.loads(command("plan", file, "--on", "H200", "--json").out)["fits"]
    assert "It does not fit" in command("plan", file, "--on", "H200", "model.quantization=none").out


@pytest.mark.parametrize("start", ["pissa", "olora", "loftq"])
def test_a_start_that_is_made_of_the_weights_needs_none(start):
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=300
    )
    method = {"name": "lora", "r": 4}
    plain = shadow_counts(config, torch.bfloat16, "CAUSAL_LM", method)
    assert shadow_counts(config, torch.bfloat16, "CAUSAL_LM", method | {"init_lora_weights": start}) == plain
