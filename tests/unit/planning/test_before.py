# SPDX-License-Identifier: Apache-2.0
"""What cannot fit is refused before a weight is read: there is none to be read here."""

from __future__ import annotations

import pytest
from tests.runs import tree
from transformers import AutoConfig, AutoTokenizer, LlamaConfig

import luthier
from luthier import run
from luthier.core.errors import RecipeError
from luthier.planning import before


class Reached(Exception):
    """Weights are about to be read."""


def reached(*_, **__):
    raise Reached


@pytest.fixture
def large(tiny_llama, tmp_path):
    """A folder of a model of 550 GB in bfloat16 that has a tokenizer, and a file without weights."""
    words = AutoConfig.from_pretrained(tiny_llama).vocab_size
    sizes = {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 80, "num_attention_heads": 128}
    LlamaConfig(vocab_size=words, num_key_value_heads=8, **sizes).save_pretrained(tmp_path / "large")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "large")
    (tmp_path / "large" / "model.safetensors").touch()
    return tmp_path / "large"


def test_a_large_model_is_refused_by_its_configuration(large, alpaca_file, tmp_path, monkeypatch):
    recipe = tree(large, alpaca_file, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(before, "find_remedies", lambda case: ())  # each is planned: seconds
        with pytest.raises(RecipeError, match=r"train: a run that does not fit: weights .* free; .*skip_memory_check"):
            luthier.train(recipe)
    recipe["train"] = recipe.get("train", {}) | {"skip_memory_check": True}
    monkeypatch.setattr(run, "load_model", reached)
    with pytest.raises(Reached):
        luthier.train(recipe)


def test_a_small_model_is_looked_at_where_little_is_free(tiny_llama, alpaca_file, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "load_model", reached)
    recipe = tree(tiny_llama, alpaca_file, tmp_path / "run", method="full")
    monkeypatch.setattr(before, "free_bytes", lambda device: 1 << 20)
    with pytest.raises(RecipeError, match=r"a run that does not fit: weights .* at most the 1.0 MiB that are free"):
        run.preview(recipe)
