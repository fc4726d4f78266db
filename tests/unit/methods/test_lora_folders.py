# SPDX-License-Identifier: Apache-2.0
"""LoRA folders of other tools: variants that are refused, keys that are read over, folders that do not fit."""

from __future__ import annotations

import json

import pytest
from tests.tiny import tiny
from tests.unit.methods.lora_models import applied

from luthier.core.errors import ModelError
from luthier.export.adapter import load_adapter


def _folder(tmp_path, **changes):
    trainable = applied("llama", target_modules=["q_proj"])
    trainable.save(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return tmp_path


VARIANTS = {
    "alora_invocation_tokens": [1, 2],
    "trainable_token_indices": [5],
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "lora_bias": True,
    "layer_replication": [[0, 2], [1, 2]],
    "use_qalora": True,
    "megatron_config": {"tensor_model_parallel_size": 2},
    "arrow_config": {"top_k": 2},
    "velora_config": {"rank": 1},
    "use_bdlora": {"nblocks": 2},
    "kasa_config": {"beta": 1e-4},
    "monteclora_config": {"num_samples": 8},
    "a_key_of_tomorrow": "on",
}


@pytest.mark.parametrize("key", VARIANTS)
def test_variants_are_refused_by_name(key, tmp_path):
    with pytest.raises(ModelError, match=rf"{key}: .*; LoRA, rsLoRA or DoRA.*merge_and_unload"):
        load_adapter(tiny("llama"), _folder(tmp_path, **{key: VARIANTS[key]}))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_starts_that_change_the_base_are_refused(start, tmp_path):
    with pytest.raises(ModelError, match=rf"init_lora_weights: '{start}'.*path_initial_model_for_weight_conversion"):
        load_adapter(tiny("llama"), _folder(tmp_path, init_lora_weights=start))


def test_harmless_keys_are_read_over(tmp_path):
    given = {
        "megatron_core": "megatron.core",
        "loftq_config": {},
        "lora_bias": False,
        "eva_config": None,
        "revision": None,
    }
    load_adapter(tiny("llama"), _folder(tmp_path, **given))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": None}, "target_modules: null, PEFT's own choice"),
        ({"target_modules": ["c_attn"]}, "matches no layer; the base it was trained on"),
        (
            {"target_modules": ["q_proj", "input_layernorm"]},
            "an update on model.layers.0.input_layernorm, a LlamaRMSNorm",
        ),
        ({"target_modules": "(q_proj"}, "a pattern that is no regular expression"),
        ({"rank_pattern": {"(q": 3}}, "rank_pattern: '\\(q' is no regular expression"),
        ({"target_modules": ["q_proj", "v_proj"]}, "no weights for model.layers.0.self_attn.v_proj.lora_A.weight"),
        ({"r": 5}, "lora_A.weight has shape \\(4, 32\\), the model \\(5, 32\\)"),
        (
            {"target_modules": ["model.layers.0.self_attn.q_proj"]},
            "layers.1.self_attn.q_proj.lora_A.weight has no place",
        ),
        ({"peft_type": "NOTHING"}, "peft_type 'NOTHING'; .*LORA"),
        ({"r": "8"}, "r: '8'; input should be a valid integer; mend adapter_config.json"),
        ({"bias": "some"}, "bias: 'some'"),
    ],
)
def test_folders_that_do_not_fit(changes, said, tmp_path):
    with pytest.raises(ModelError, match=said):
        load_adapter(tiny("llama"), _folder(tmp_path, **changes))
