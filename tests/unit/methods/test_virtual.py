# SPDX-License-Identifier: Apache-2.0
"""Soft prompts: their keys, their folders, whole runs with any objective, and what they refuse."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tests.runs import bits, metrics, stop_before, tree
from tests.tiny import tiny

import luthier
from luthier.core import registry
from luthier.core.errors import ModelError, RecipeError, UserError
from luthier.export.adapter import fill_adapter, load_adapter
from luthier.export.merge import merge_run
from luthier.methods import prefix, prompt, ptuning
from luthier.models.generate import generate
from luthier.recipe import load_recipe
from luthier.recipe.sharing import why_alone

LSTM = {"name": "ptuning", "encoder_reparameterization_type": "LSTM", "encoder_dropout": 0.2, "encoder_hidden_size": 8}
METHODS = {
    "prompt": {"name": "prompt", "num_virtual_tokens": 4},
    "ptuning": {**LSTM, "num_virtual_tokens": 4},
    "prefix": {"name": "prefix", "num_virtual_tokens": 4, "prefix_projection": True},
}


def _apply(model, **keys):
    method = registry.get("methods", keys.pop("name"))
    return method.apply(model, method.Config(**keys))


@pytest.mark.parametrize(
    ("method", "keys", "message"),
    [
        (prompt, {"prompt_tuning_init": "TEXT"}, "prompt_tuning_init_text: None with prompt_tuning_init TEXT"),
        (prompt, {"prompt_tuning_init_text": "Hi"}, "a text for TEXT"),
        (prompt, {"tokenizer_name_or_path": "x"}, "tokenizer_name_or_path: .*one for TEXT"),
        (prompt, {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Hi"}, "does not say where it came from"),
        (ptuning, {"encoder_num_layers": 3}, "encoder_num_layers: 3 with .*MLP.*the LSTM's"),
        (ptuning, {"encoder_dropout": 0.1}, "encoder_dropout: 0.1 with .*MLP"),
        (ptuning, {k: v for k, v in LSTM.items() if k != "name"} | {"encoder_num_layers": 1}, "acts between layers"),
        (prefix, {"encoder_hidden_size": 8}, "encoder_hidden_size: 8 without prefix_projection"),
    ],
)
def test_keys_without_effect_are_refused(method, keys, message):
    model = tiny("llama")
    with pytest.raises(RecipeError, match=message):
        method.apply(model, method.Config(**keys))
    assert all(parameter.requires_grad for parameter in model.parameters()), "the model was left as it was"


def test_prompts_begin_where_they_are_told():
    model = tiny("llama")
    vectors = _apply(model, name="prompt", num_virtual_tokens=9).parameters()["prompt_embeddings"]
    words = model.get_input_embeddings().weight
    assert all((words == vector).all(-1).any() for vector in vectors)
    random = _apply(tiny("llama"), name="prompt", prompt_tuning_init="RANDOM", num_virtual_tokens=200)
    assert float(random.parameters()["prompt_embeddings"].detach().std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("projection", [False, True])
def test_a_prefix_of_zeros(projection):
    model = tiny("llama")
    _apply(model, name="prefix", init_weights="zero", prefix_projection=projection)
    assert model.prompt_encoder().shape == (20, 2 * 2 * 16)
    assert not model.prompt_encoder().any()


def test_what_trains_is_float32_before_a_bfloat16_model():
    for keys in METHODS.values():
        trainable = _apply(tiny("llama").to(torch.bfloat16), **keys)
        assert {parameter.dtype for parameter in trainable.parameters().values()} == {torch.float32}
        ids = torch.tensor([[5, 6, 7]])
        assert trainable.model(input_ids=ids).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("name", METHODS)
def test_training_goes_on_from_a_folder(name, tmp_path):
    """The encoder stands beside what PEFT keeps; without it, going on is refused and serving is not."""
    first, second = (_apply(tiny("llama"), **METHODS[name]) for _ in range(2))
    first.save(tmp_path)
    assert (tmp_path / "prompt_encoder.safetensors").exists() == (name != "prompt")
    fill_adapter(second, tmp_path)
    for key, parameter in first.parameters().items():
        assert torch.equal(parameter, second.parameters()[key])
    (tmp_path / "prompt_encoder.safetensors").unlink(missing_ok=True)
    load_adapter(tiny("llama"), tmp_path)
    if name != "prompt":
        with pytest.raises(RecipeError, match="holds 4 vectors, and not the encoder that gave them"):
            fill_adapter(second, tmp_path)
    other = _apply(tiny("llama"), **METHODS[name] | {"num_virtual_tokens": 3})
    first.save(tmp_path)
    with pytest.raises(ModelError, match="has shape"):
        fill_adapter(other, tmp_path)


def test_a_computed_prompt_goes_on_as_a_plain_one(tmp_path):
    encoded, plain = _apply(tiny("llama"), **METHODS["ptuning"]), _apply(tiny("llama"), **METHODS["prompt"])
    encoded.save(tmp_path)
    fill_adapter(plain, tmp_path)
    encoded.model.eval()
    assert torch.allclose(plain.parameters()["prompt_embeddings"], encoded.model.prompt_encoder(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("prompt", {"num_virtual_tokens": None}, "num_virtual_tokens: None"),
        ("prompt", {"num_transformer_submodules": 2}, "an encoder and a decoder"),
        ("prompt", {"num_ranks": 3}, "num_ranks: 3"),
        ("prefix", {"num_attention_heads": 4}, "4 heads of keys, the model 2"),
    ],
)
def test_folders_that_mean_something_else_are_refused(name, change, message, tmp_path):
    _apply(tiny("llama"), **METHODS[name]).save(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load_adapter(tiny("llama"), tmp_path)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_resumes_to_the_same_bits_and_serves(name, tiny_llama, alpaca_file, tmp_path):
    keys = {"method": METHODS[name], "optim": {"learning_rate": 1e-2}, "train": {"save_steps": 1}}
    whole = luthier.train(tree(tiny_llama, alpaca_file, tmp_path / "whole", **keys))
    parts = tree(tiny_llama, alpaca_file, tmp_path / "parts", **keys)
    stop_before(3, parts)
    luthier.train(parts, resume=True)
    assert bits(tmp_path / "parts") == bits(whole.folder)
    model, tokenizer = luthier.load(whole.folder)
    replies = [generate(one, tokenizer, ["red", "Name a colour."], max_new_tokens=5) for one in (model, whole.model)]
    assert replies[0] == replies[1]
    again = luthier.train(parts, resume=True)  # a finished run is opened again, with what trains
    for key, parameter in again.trainable.parameters().items():
        assert torch.equal(parameter, whole.trainable.parameters()[key])
    with pytest.raises(UserError, match="virtual tokens stand before the text"):
        merge_run(whole.folder)
    assert not (whole.folder / "merged").exists()


@pytest.mark.parametrize(("reference", "apart"), [("start", False), ("base", True)])
def test_preferences_know_that_the_start_is_not_the_base(reference, apart, tiny_llama, tmp_path):
    """`start` is the policy with its first virtual tokens (computed once: it moves), `base` the model without any."""
    rows = [{"instruction": f"Name {n}.", "chosen": f"It is {n}.", "rejected": "no" * (n + 1)} for n in range(4)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    keys = {"method": METHODS["prompt"], "objective": {"name": "dpo", "reference": reference}}
    lines: list[str] = []
    run = tree(tiny_llama, file, tmp_path / "run", **keys, train={"max_steps": 2})
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    result = luthier.train(run, say=lines.append)
    first = metrics(result.folder)[0]
    assert (abs(first["rewards/margins"]) > 1e-6) == apart
    assert any("its first margins are not 0" in line for line in lines) == apart
    if reference == "start":
        run["objective"]["precompute_ref_log_probs"] = False
        with pytest.raises(RecipeError, match="whose first state is not its base"):
            luthier.train(run, overwrite=True)


def test_runs_of_soft_prompts_do_not_share_a_base(tiny_llama, alpaca_file, tmp_path):
    recipe = load_recipe(tree(tiny_llama, alpaca_file, tmp_path, method=METHODS["prefix"])).recipe
    assert why_alone(recipe) == "method prefix puts virtual tokens before every tree of a batch"
