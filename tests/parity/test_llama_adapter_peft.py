# SPDX-License-Identifier: Apache-2.0
"""LLaMA-Adapter equals PEFT's ADAPTION_PROMPT, both ways, and its formula on architectures that PEFT does not have."""

from __future__ import annotations

import json

import pytest
import torch
from peft import AdaptionPromptConfig, PeftModel, get_peft_model
from tests.folders import IDS, TOLERANCE, read_back, shapes
from tests.parity.families import PROVEN, build
from tests.reward import shake
from tests.tiny import tiny
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from luthier.core.errors import ModelError, RecipeError, UserError
from luthier.core.types import Segment, Tree
from luthier.engine.flops import count_rates
from luthier.export.adapter import fill_adapter, load_adapter
from luthier.kernels.forest import plant
from luthier.methods import llama_adapter
from luthier.models import scored_logprobs
from luthier.models.adaption import AdaptionPrompt

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CASES = [
    ("llama", {"adapter_len": 4}),
    ("llama", {"adapter_len": 3, "adapter_layers": 1}),
    ("tied", {"adapter_len": 4}),
    ("mistral", {"adapter_len": 4}),
    ("gpt2", {"adapter_len": 4}),  # PEFT adds the term past the attention's last linear here
    ("gpt2", {"adapter_len": 2, "adapter_layers": 1}),
]
each = pytest.mark.parametrize(("family", "keys"), CASES)


def base(family: str):
    return build(*PROVEN["Mistral"], attention="sdpa") if family == "mistral" else tiny(family)


def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits


def in_a_forest(model) -> torch.Tensor:
    """Log-probabilities of the same tokens, beside another tree."""
    model.set_attn_implementation("luthier")
    ids = [one.numpy().astype("int32") for one in (IDS[0, :7].flip(0), IDS[0])]
    return scored_logprobs(model, plant([Tree(segments=(Segment(ids=one, scored=one >= 0),)) for one in ids]))[6:]


@each
def test_peft_loads_what_is_written_here(family, keys, tmp_path):
    model = base(family)
    trainable = llama_adapter.apply(model, llama_adapter.Config(**keys))
    with torch.no_grad():
        before = logits(base(family))
        assert torch.equal(logits(model), before)
        shake(trainable.parameters().values(), 0.7)
        trainable.save(tmp_path)
        here, there = logits(model), logits(PeftModel.from_pretrained(base(family), tmp_path))
        assert (here - before).abs().max() > 0.02
        assert (here - there).abs().max() <= TOLERANCE
        with trainable.disabled():
            assert torch.equal(logits(model), before)
        wanted = torch.log_softmax(there[0, :-1], -1).gather(1, IDS[0, 1:, None])[:, 0]
        assert (in_a_forest(model) - wanted).abs().max() <= TOLERANCE
    with pytest.raises(UserError, match="a softmax of their own"):
        trainable.merge()


@each
def test_what_peft_writes_loads_here(family, keys, tmp_path):
    keys = {"adapter_layers": 2, **keys}  # PEFT has no default
    made = get_peft_model(base(family), AdaptionPromptConfig(**keys, task_type="CAUSAL_LM"))
    shake([p for p in made.parameters() if p.requires_grad], 0.7)
    trainable = read_back(made, base(family), tmp_path)
    assert shapes(llama_adapter.apply(base(family), llama_adapter.Config(**keys))) == shapes(trainable)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_gradients_equal_peft(family, tmp_path):
    model = base(family)
    trainable = llama_adapter.apply(model, llama_adapter.Config(adapter_len=4))
    shake(trainable.parameters().values(), 0.7)
    trainable.save(tmp_path)
    theirs = PeftModel.from_pretrained(base(family), tmp_path, is_trainable=True).train()
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_("adaption" in name)
    out = theirs(input_ids=IDS, use_cache=False).logits[0, :-1]
    torch.nn.functional.cross_entropy(out, IDS[0, 1:], reduction="sum").backward()
    model.train()
    (-in_a_forest(model).sum()).backward()
    wanted = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    for name, parameter in trainable.parameters().items():
        there = wanted.pop(f"base_model.model.{name}")
        assert (parameter.grad - there).abs().max() <= 2 * TOLERANCE * max(1.0, float(there.abs().max())), name
    assert not wanted


def test_the_formula_where_queries_are_normed_and_rotated():
    """Qwen 3, which PEFT does not take: the query as its layer asks, keys and values of the prompt as they come."""
    model = build(*PROVEN["Qwen3"], attention="sdpa").double()
    trainable = llama_adapter.apply(model, llama_adapter.Config(adapter_len=3))
    shake(trainable.parameters().values(), 0.7)
    attention, own, seen = model.model.layers[1].self_attn, trainable.parameters(), {}
    prompt, gate = (own[f"model.layers.1.self_attn.adaption_{part}"] for part in ("prompt", "gate"))
    attention.register_forward_hook(lambda _, __, given, out: seen.update(given, out=out[0]), with_kwargs=True)
    with torch.no_grad():
        logits(model)
        with trainable.disabled():
            plain, _ = attention(
                **{key: seen[key] for key in ("hidden_states", "position_embeddings")}, attention_mask=None
            )
        got = attention(**{key: seen[key] for key in ("hidden_states", "position_embeddings")}, attention_mask=None)[0]
        size = attention.head_dim
        query = attention.q_norm(attention.q_proj(seen["hidden_states"]).unflatten(-1, (-1, size))).transpose(1, 2)
        query, _ = apply_rotary_pos_emb(query, query, *seen["position_embeddings"])
        key = attention.k_proj(prompt[0]).unflatten(-1, (-1, size))
        value = attention.v_proj(prompt[0]).unflatten(-1, (-1, size))
        rows = []
        for head in range(query.shape[1]):
            group = head // (query.shape[1] // key.shape[1])
            weights = torch.softmax(query[0, head] @ key[:, group].T / size**0.5, -1)
            rows.append(gate * weights @ value[:, group])
        wanted = plain + attention.o_proj(torch.cat(rows, -1))[None]
    assert (got - plain).abs().max() > 0.01
    assert (got - wanted).abs().max() <= 1e-6  # the softmax over prompts runs in float32


@pytest.mark.parametrize("family", ["Llama", "GPT-NeoX, Pythia", "Phi-3, Phi-4", "Persimmon"])
def test_a_prompt_is_read_as_tokens_are(family, monkeypatch):
    """Tokens at place 0 are not rotated: their keys and values are what the same numbers are as a prompt."""
    model, seen = build(*PROVEN[family], attention="sdpa"), {}
    trainable = llama_adapter.apply(model, llama_adapter.Config(adapter_len=3))
    for name, module in model.named_modules():
        if name.endswith(("input_layernorm", "q_layernorm", "k_layernorm")):  # the prompt is not normed
            module.register_forward_hook(lambda _, given, __: given[0])
    prompt = next(module for module in model.modules() if isinstance(module, AdaptionPrompt))

    def attend(module, query, key, value, *_, **__):
        seen.setdefault("found", (key, value))
        return query.transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", attend)
    with torch.no_grad():
        trainable.model.get_decoder()(
            inputs_embeds=prompt.adaption_prompt.detach(), position_ids=torch.zeros(1, 3).long(), use_cache=False
        )
        key, value = prompt._read(torch.float32, seen["found"][0].shape[-1])
    assert (seen["found"][0][0] - key).abs().max() <= 1e-6
    assert (seen["found"][1][0] - value).abs().max() <= 1e-6


def test_flops_are_those_that_torch_counts():
    for family in ("llama", "gpt2"):
        plain, counted = tiny(family), tiny(family)
        plain.set_attn_implementation("eager")
        counted.set_attn_implementation("luthier")
        for model in (plain, counted):
            llama_adapter.apply(model, llama_adapter.Config(adapter_len=5, adapter_layers=1))
        with FlopCounterMode(display=False) as counter:
            plain.train()(input_ids=torch.arange(19)[None], use_cache=False).logits.logsumexp(-1).sum().backward()
        assert count_rates(counted).total(19, 19, 19 * 19, 1) == counter.get_total_flops()


def test_training_goes_on_from_a_folder(tmp_path):
    trained = llama_adapter.apply(tiny("llama"), llama_adapter.Config(adapter_len=4))
    shake(trained.parameters().values(), 0.7)
    trained.save(tmp_path)
    again = llama_adapter.apply(tiny("llama"), llama_adapter.Config(adapter_len=4))
    fill_adapter(again, tmp_path)
    assert torch.equal(logits(again.model), logits(trained.model))
    with pytest.raises(ModelError, match="has shape"):
        fill_adapter(llama_adapter.apply(tiny("llama"), llama_adapter.Config(adapter_len=5)), tmp_path)


@pytest.mark.parametrize(
    ("family", "keys", "error", "said"),
    [
        ("llama", {"adapter_layers": 3}, RecipeError, "3 of 2 layers; 1 to 2"),
        ("llama", {"modules_to_save": ["self_attn"]}, RecipeError, "self_attn, where a prompt stands"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_touched(family, keys, error, said):
    model = tiny(family)
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    with pytest.raises(error, match=said):
        llama_adapter.apply(model, llama_adapter.Config(**keys))
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == before


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    llama_adapter.apply(tiny("llama"), llama_adapter.Config(adapter_len=4)).save(tmp_path)
    file = tmp_path / "adapter_config.json"
    told = json.loads(file.read_text())
    wrongs = {
        "surprise: 3; LLaMA-Adapter": {"surprise": 3},
        "target_modules: 'attn'; 'self_attn', this model": {"target_modules": "attn"},
        "has shape": {"adapter_len": 3},
        "3 of 2 layers": {"adapter_layers": 3},
        "adapter_len: 0": {"adapter_len": 0},
    }
    for said, wrong in wrongs.items():
        file.write_text(json.dumps(told | wrong))
        with pytest.raises(ModelError, match=said):
            load_adapter(tiny("llama"), tmp_path)
