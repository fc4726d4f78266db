# SPDX-License-Identifier: Apache-2.0
"""LoRA equals PEFT, both ways: what Luthier writes computes the same in PEFT, and what PEFT writes the same here.

Every tensor that trains is drawn at random first: with B = 0 any two adapters agree.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from tests.tiny import tiny

from luthier.core.types import Segment, Tree
from luthier.export.adapter import load_adapter
from luthier.kernels.forest import plant
from luthier.methods import lora
from luthier.models import scored_logprobs

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]  # PEFT warns about ties, fan_in_fan_out, names

TOLERANCE = 1e-5
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 58, 9, 7, 0, 31, 12]])
ALL = ("llama", "tied", "qwen2", "gpt2", "neox", "gemma3")
LLAMAS = ("llama", "tied", "qwen2", "gemma3")

# name -> (architectures, Luthier's keys, PEFT's keys where they are spelt differently)
SETTINGS: dict[str, tuple[tuple[str, ...], dict, dict]] = {
    "all-linear": (ALL, {}, {"target_modules": "all-linear"}),
    "rslora": (ALL, {"use_rslora": True, "lora_alpha": 4.0}, {"target_modules": "all-linear"}),
    "alpha is no integer": (("llama",), {"lora_alpha": 3.7}, {"target_modules": "all-linear"}),
    "list": (LLAMAS, {"target_modules": ["q_proj", "v_proj", "down_proj"]}, {}),
    "list, GPT-2": (("gpt2",), {"target_modules": ["c_attn", "mlp.c_proj"]}, {}),
    "list, NeoX": (("neox",), {"target_modules": ["query_key_value", "dense_4h_to_h"]}, {}),
    "regex": (LLAMAS, {"target_modules": r".*layers\.1\..*(q|up)_proj"}, {}),
    "exclude by name": (
        LLAMAS,
        {"exclude_modules": ["k_proj", "mlp.up_proj"]},
        {"target_modules": "all-linear"},
    ),
    "exclude by regex": (
        LLAMAS,
        {"target_modules": ["q_proj", "o_proj"], "exclude_modules": r".*\.0\..*o_proj"},
        {},
    ),
    "one layer": (LLAMAS, {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]}, {}),
    "one layer, GPT-2": (("gpt2",), {"target_modules": ["c_attn", "c_fc"], "layers_to_transform": [0]}, {}),
    "patterns": (
        LLAMAS,
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {r"layers\.0\..*q_proj": 2, "down_proj": 7, "model.layers.1.self_attn.v_proj": 1},
            "alpha_pattern": {"v_proj": 3.5, "^model.layers.0.mlp.down_proj": 64.0},
            "use_rslora": True,
        },
        {},
    ),
    "lora_only biases": (("qwen2", "gpt2", "neox", "llama"), {"bias": "lora_only"}, {"target_modules": "all-linear"}),
    "all biases": (("qwen2", "gpt2", "neox"), {"bias": "all"}, {"target_modules": "all-linear"}),
    "all biases, few targets": (("qwen2",), {"bias": "all", "target_modules": ["o_proj"]}, {}),
    "whole head": (LLAMAS, {"modules_to_save": ["lm_head"]}, {"target_modules": "all-linear"}),
    "whole head and embedding": (
        LLAMAS,
        {"modules_to_save": ["lm_head", "embed_tokens"], "target_modules": ["q_proj"]},
        {},
    ),
    "whole block": (LLAMAS, {"modules_to_save": ["layers.1.mlp"]}, {"target_modules": "all-linear"}),
    "whole norm beside biases": (
        ("gpt2",),
        {"modules_to_save": ["ln_f"], "bias": "all", "target_modules": ["c_attn"]},
        {},
    ),
    "whole final norm": (("llama",), {"modules_to_save": ["model.norm"]}, {"target_modules": "all-linear"}),
    "head": (LLAMAS, {"target_modules": ["lm_head", "q_proj"]}, {}),
    "embedding": (LLAMAS, {"target_modules": ["embed_tokens", "q_proj"]}, {}),
    "embedding and head": (LLAMAS, {"target_modules": ["embed_tokens", "lm_head", "down_proj"]}, {}),
    "embeddings, GPT-2": (("gpt2",), {"target_modules": ["wte", "wpe", "c_attn", "lm_head"]}, {}),
    "embeddings, NeoX": (("neox",), {"target_modules": ["embed_in", "lm_head", "dense"]}, {}),
    "tied update": (
        ("tied", "gemma3"),
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True, "lora_alpha": 1.0},
        {},
    ),
    "tied update by the head": (
        ("tied", "gemma3"),
        {"target_modules": ["lm_head"], "ensure_weight_tying": True, "use_rslora": True, "lora_alpha": 1.0},
        {},
    ),
    "tied whole": (
        ("tied", "gemma3"),
        {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"], "ensure_weight_tying": True},
        {},
    ),
    "dora": (ALL, {"use_dora": True}, {"target_modules": "all-linear"}),
    "dora with rslora": (
        ("qwen2", "gpt2"),
        {"use_dora": True, "use_rslora": True, "bias": "all", "lora_alpha": 4.0},
        {"target_modules": "all-linear"},
    ),
    "dora of embedding and head": (LLAMAS, {"use_dora": True, "target_modules": ["embed_tokens", "lm_head"]}, {}),
    "everything": (
        ("qwen2",),
        {
            "r": 3,
            "use_rslora": True,
            "lora_dropout": 0.25,
            "target_modules": ["q_proj", "k_proj", "down_proj", "embed_tokens"],
            "rank_pattern": {"k_proj": 5},
            "alpha_pattern": {"down_proj": 1.5},
            "bias": "all",
            "modules_to_save": ["lm_head", "model.norm"],
        },
        {},
    ),
}
CASES = [pytest.param(arch, name, id=f"{arch}: {name}") for name, (archs, _, _) in SETTINGS.items() for arch in archs]


def _ours(name: str) -> lora.Config:
    return lora.Config(**({"r": 4, "lora_alpha": 16.0} | SETTINGS[name][1]))


def _theirs(name: str) -> LoraConfig:
    return LoraConfig(**({"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM"} | SETTINGS[name][1] | SETTINGS[name][2]))


@torch.no_grad()
def _shake(parameters) -> None:
    for parameter in parameters:
        parameter.add_(0.1 * torch.randn_like(parameter))


@torch.no_grad()
def _logits(model) -> torch.Tensor:
    model.eval()
    return model(input_ids=IDS, use_cache=False).logits


def _written_by_peft(arch: str, config: LoraConfig, folder: Path) -> torch.Tensor:
    theirs = get_peft_model(tiny(arch), config)
    trained = {
        id(p): p for p in theirs.parameters() if p.requires_grad
    }  # PEFT's tied matrices are views of one another
    _shake(trained.values())
    theirs.save_pretrained(folder)
    return _logits(PeftModel.from_pretrained(tiny(arch), folder))


@pytest.mark.parametrize(("arch", "name"), CASES)
def test_peft_loads_what_is_written_here(arch, name, tmp_path):
    model = tiny(arch)
    before = _logits(model)
    trainable = lora.apply(model, _ours(name))
    _shake(trainable.parameters().values())
    trainable.save(tmp_path)
    here = _logits(model)
    there = _logits(PeftModel.from_pretrained(tiny(arch), tmp_path))
    assert (here - before).abs().max() > 0.05
    assert (here - there).abs().max() <= TOLERANCE

    again = tiny(arch)
    load_adapter(again, tmp_path)
    assert torch.equal(_logits(again), here)
    with trainable.disabled():
        assert torch.equal(_logits(model), before)
    assert (_logits(trainable.merge()) - here).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("arch", "name"), CASES)
def test_what_peft_writes_loads_here(arch, name, tmp_path):
    there = _written_by_peft(arch, _theirs(name), tmp_path)
    model = tiny(arch)
    load_adapter(model, tmp_path)
    assert (_logits(model) - there).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("arch", "name"), CASES)
def test_files_hold_the_same_tensors(arch, name, tmp_path):
    lora.apply(tiny(arch), _ours(name)).save(tmp_path / _made(tmp_path, "ours"))
    get_peft_model(tiny(arch), _theirs(name)).save_pretrained(tmp_path / "theirs")
    ours, theirs = _shapes(tmp_path / "ours"), _shapes(tmp_path / "theirs")
    # PEFT adds the frozen base of adapted embeddings, and each bias of a whole module three times.
    noise = ("base_layer.weight", "original_module.bias", "modules_to_save.bias")
    assert ours == {key: shape for key, shape in theirs.items() if not key.endswith(noise)}


def _made(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return name


def _shapes(folder: Path) -> dict[str, list[int]]:
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - not a dict


OTHER_SPELLINGS = {
    "one layer as a number": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 1},
    "layers by pattern": {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
    "layers by patterns": {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    "a whole name beside a layer": {
        "target_modules": ["q_proj", "model.layers.0.mlp.up_proj"],
        "layers_to_transform": [1],
    },
    "whole by half a name": {"target_modules": ["q_proj"], "modules_to_save": ["head"]},
    "whole by an ending of several": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "target also whole": {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
    "exclusions that match nothing": {"target_modules": ["q_proj"], "exclude_modules": ["nothing"]},
    "rank above the layer": {"target_modules": ["k_proj"], "r": 40},
    "drawn at random": {"target_modules": ["q_proj"], "init_lora_weights": False},
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
    "eva": {"target_modules": ["q_proj"], "init_lora_weights": "eva"},
    "mica": {"target_modules": ["q_proj"], "init_lora_weights": "mica"},
    "tied by a regex": {"target_modules": r"(.*\.)?(embed_tokens|q_proj)", "ensure_weight_tying": True},
    "tying where nothing is tied": {"target_modules": ["q_proj"], "ensure_weight_tying": True},
}


@pytest.mark.parametrize("arch", ["llama", "tied"])
@pytest.mark.parametrize("name", OTHER_SPELLINGS)
def test_spellings_that_only_peft_has(arch, name, tmp_path):
    config = LoraConfig(**({"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM"} | OTHER_SPELLINGS[name]))
    there = _written_by_peft(arch, config, tmp_path)
    model = tiny(arch)
    load_adapter(model, tmp_path)
    assert (_logits(model) - there).abs().max() <= TOLERANCE


def test_all_linear_as_a_word_in_the_file(tmp_path):
    there = _written_by_peft("llama", LoraConfig(r=4, target_modules="all-linear"), tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": "all-linear"}))
    model = tiny("llama")
    load_adapter(model, tmp_path)
    assert (_logits(model) - there).abs().max() <= TOLERANCE


def test_what_was_loaded_can_be_written_again(tmp_path):
    there = _written_by_peft("tied", _theirs("tied update"), tmp_path / "first")
    model = tiny("tied")
    load_adapter(model, tmp_path / "first").save(tmp_path / _made(tmp_path, "second"))
    assert (_logits(PeftModel.from_pretrained(tiny("tied"), tmp_path / "second")) - there).abs().max() <= TOLERANCE


def test_base_weights_in_the_file_count_as_in_peft(tmp_path):
    """PEFT saves the base of an adapted embedding; where someone trained it, both put it into the model."""
    theirs = get_peft_model(tiny("llama"), LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]))
    with torch.no_grad():
        theirs.get_input_embeddings().base_layer.weight.add_(0.05)
    theirs.save_pretrained(tmp_path)
    model = tiny("llama")
    load_adapter(model, tmp_path)
    assert (_logits(model) - _logits(theirs)).abs().max() <= TOLERANCE
    assert (_logits(model) - _logits(tiny("llama"))).abs().max() > 0.01


# ---------------------------------------------------------------- training


def _name_here(name: str) -> str:
    """PEFT's parameter name in a model as Luthier's."""
    name = name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
    return name.replace("_vector.default.weight", "_vector").replace(".default", "")


GRADIENTS = [
    ("llama", "all-linear"),
    ("llama", "embedding and head"),
    ("llama", "whole head and embedding"),
    ("tied", "whole head"),
    ("tied", "embedding"),
    ("tied", "head"),
    ("qwen2", "everything"),
    ("qwen2", "all biases"),
    ("gpt2", "whole norm beside biases"),
    ("gpt2", "embeddings, GPT-2"),
    ("neox", "lora_only biases"),
    ("gemma3", "embedding"),
    ("qwen2", "dora"),
    ("gpt2", "dora"),
    ("llama", "dora of embedding and head"),
]


@pytest.mark.parametrize(("arch", "name"), GRADIENTS)
def test_gradients_equal_peft(arch, name, tmp_path):
    """One step's gradient, Luthier's forest and head kernel against PEFT and cross-entropy."""
    settings = _ours(name).model_copy(update={"lora_dropout": 0.0})
    model = tiny(arch)
    trainable = lora.apply(model, settings)
    _shake(trainable.parameters().values())
    trainable.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny(arch), tmp_path, is_trainable=True).train()
    logits = theirs(input_ids=IDS, use_cache=False).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, IDS[0, 1:], reduction="sum").backward()

    model.train()
    loss, _ = _forest_loss(model)
    loss.backward()
    wanted = {_name_here(n): p.grad for n, p in theirs.named_parameters() if p.requires_grad and p.grad is not None}
    got = {n: p.grad for n, p in trainable.parameters().items()}
    assert got.keys() == wanted.keys()
    for key, gradient in got.items():
        scale = max(1.0, float(wanted[key].abs().max()))
        assert (gradient - wanted[key]).abs().max() <= TOLERANCE * scale, key


def _forest_loss(model) -> tuple[torch.Tensor, torch.Tensor]:
    model.set_attn_implementation("luthier")
    ids = IDS[0].numpy().astype("int32")
    logps = scored_logprobs(model, plant([Tree(segments=(Segment(ids=ids, scored=ids >= 0),))]))
    return -logps.sum(), logps


def test_a_tied_update_gets_both_ends_gradients(tmp_path):
    """PEFT holds two views of one storage and moves it twice; the true gradient is their sum."""
    model = tiny("tied")
    trainable = lora.apply(model, _ours("tied update"))
    _shake(trainable.parameters().values())
    trainable.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny("tied"), tmp_path, is_trainable=True)
    logits = theirs(input_ids=IDS, use_cache=False).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, IDS[0, 1:], reduction="sum").backward()
    wanted = {_name_here(n): p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    _forest_loss(model)[0].backward()
    got = {n: p.grad for n, p in trainable.parameters().items()}
    for ours, theirs_too in (("A", "B"), ("B", "A")):
        both = wanted[f"model.embed_tokens.lora_embedding_{ours}"] + wanted[f"lm_head.lora_{theirs_too}.weight"].T
        error = (got[f"model.embed_tokens.lora_embedding_{ours}"] - both).abs().max()
        assert error <= TOLERANCE * float(both.abs().max().clamp_min(1.0))


@pytest.mark.parametrize("name", ["all-linear", "embedding and head"])
def test_bfloat16_base_and_float32_adapter(name, tmp_path):
    """No further from the float32 truth than PEFT is, up to the noise of rounding."""
    trainable = lora.apply(tiny("llama"), _ours(name))
    _shake(trainable.parameters().values())
    trainable.save(tmp_path)
    rounded = tiny("llama").to(torch.bfloat16)
    exact = copy.deepcopy(rounded).float()
    load_adapter(exact, tmp_path)
    truth = _logits(exact)
    here = load_adapter(rounded, tmp_path)
    assert {p.dtype for p in here.parameters().values()} == {torch.float32}
    theirs = PeftModel.from_pretrained(tiny("llama").to(torch.bfloat16), tmp_path)
    ours_off, theirs_off = ((_logits(m).float() - truth).abs().mean() for m in (rounded, theirs))
    assert _logits(rounded).dtype == torch.bfloat16
    assert ours_off <= 1.5 * theirs_off + 1e-3
    assert ours_off < 0.03 * truth.abs().mean()


@pytest.mark.parametrize("arch", ["llama", "tied"])
def test_head_update_through_the_kernel(arch):
    """Scored log-probabilities equal the plain logits', with the update, without it, and with a whole head."""
    for name in ("head", "embedding and head", "whole head"):
        model = tiny(arch)
        trainable = lora.apply(model, _ours(name))
        _shake(trainable.parameters().values())
        wanted = _logp(_logits(model))
        assert (_forest_loss(model)[1] - wanted).abs().max() <= TOLERANCE
        with trainable.disabled():
            assert (_forest_loss(model)[1] - _logp(_logits(tiny(arch)))).abs().max() <= TOLERANCE
        assert (_forest_loss(model)[1] - wanted).abs().max() <= TOLERANCE


def _logp(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits[0, :-1], -1).gather(1, IDS[0, 1:, None])[:, 0]


# ---------------------------------------------------------------- an adapter from the world

REAL = Path(__file__).parents[3] / "shared" / "models" / "gpt2-tigrinya-lora"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real adapter is not beside this repository")
def test_a_real_gpt2_adapter():
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config())  # GPT-2 small's shape, 124 M random weights
    before = _logits(base)
    there = _logits(PeftModel.from_pretrained(copy.deepcopy(base), REAL))
    trainable = load_adapter(base, REAL)
    here = _logits(base)
    assert len(trainable.parameters()) == 72
    assert (here - before).abs().max() > 0.01
    assert (here - there).abs().max() <= TOLERANCE


def test_peft_is_the_version_whose_rules_are_followed():
    assert tuple(map(int, peft.__version__.split(".")[:2])) >= (0, 21)
