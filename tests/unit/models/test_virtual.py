# SPDX-License-Identifier: Apache-2.0
"""Virtual tokens are one parent segment of all trees, whatever asks the model: forests, masks, caches."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.tiny import tiny

from luthier.core import registry
from luthier.core.errors import ModelError
from luthier.core.types import Segment, Tree, unshared
from luthier.engine.flops import count_rates
from luthier.kernels import native
from luthier.kernels.attention import visible
from luthier.kernels.forest import plant
from luthier.kernels.inserted import under
from luthier.models import generate as generation
from luthier.models import scored_logprobs, serving
from luthier.models.alone import separate_logprobs
from luthier.models.probe import probe_forest
from luthier.models.recomputing import recompute_layers

KINDS = {
    "prompt": {},
    "ptuning": {},
    "prefix": {},
    "prefix projected": {"prefix_projection": True},
}
kinds = pytest.mark.parametrize("kind", KINDS)
N = 5


def _with_virtual(model, kind: str):
    method = registry.get("methods", kind.split()[0])
    trainable = method.apply(model, method.Config(num_virtual_tokens=N, **KINDS[kind]))
    model.eval()
    return trainable


def _ready(family: str, dtype=torch.float32):
    model = tiny(family).to(dtype)
    model.set_attn_implementation("luthier")
    return model


def _gradients(trainable, forest) -> list[torch.Tensor]:
    trainable.model.zero_grad()
    scored_logprobs(trainable.model, forest).mean().backward()
    return [parameter.grad.clone() for parameter in trainable.parameters().values()]


@kinds
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen2"])
def test_a_forest_equals_separate_forwards_and_so_do_gradients(kind, family):
    model = _ready(family, torch.float64)
    trainable, forest = _with_virtual(model, kind), probe_forest(model)
    got = scored_logprobs(model, forest)
    grown = _gradients(trainable, forest)
    model.zero_grad()
    with serving(model), torch.enable_grad():
        wanted = separate_logprobs(model, forest)
        wanted.mean().backward()
    assert (got - wanted).abs().max() <= 1e-5  # some norms take float32
    for here, parameter in zip(grown, trainable.parameters().values(), strict=True):
        assert parameter.grad.abs().max() > 1e-6
        assert (here - parameter.grad).abs().max() <= 1e-5


@kinds
def test_a_prompt_shared_by_two_answers_is_a_prompt_for_each(kind):
    """Preference rows: the virtual tokens stand above the shared prompt, and gradients of both answers reach them."""
    random = np.random.default_rng(1)
    parts = [random.integers(3, 60, length).astype(np.int32) for length in (6, 4, 5)]
    segments = tuple(Segment(ids=ids, scored=np.full(len(ids), place > 0)) for place, ids in enumerate(parts))
    tree = Tree(segments=segments, parents=(-1, 0, 0), grades=(float("nan"), 1.0, 0.0))
    trainable = _with_virtual(_ready("llama", torch.float64), kind)
    shared, apart = plant([tree, tree]), plant([unshared(tree), unshared(tree)])
    assert (scored_logprobs(trainable.model, shared) - scored_logprobs(trainable.model, apart)).abs().max() <= 1e-6
    for one, other in zip(_gradients(trainable, shared), _gradients(trainable, apart), strict=True):
        assert (one - other).abs().max() <= 1e-7


@kinds
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_recomputed_layers_give_the_same_gradient(kind, family):
    trainable = _with_virtual(_ready(family), kind)
    trainable.model.train()
    forest = probe_forest(trainable.model)
    kept = _gradients(trainable, forest)
    recompute_layers(trainable.model)
    for one, other in zip(kept, _gradients(trainable, forest), strict=True):
        assert (one - other).abs().max() <= 1e-7


@kinds
def test_windows_count_virtual_tokens_as_transformers_does(kind):
    model = _ready("gemma3")
    assert set(model.config.layer_types) == {"sliding_attention"}
    _with_virtual(model, kind)
    forest = probe_forest(model)
    with torch.no_grad():
        wide = scored_logprobs(model, forest)
        model.config.sliding_window = 6
        for layer in model.model.layers:
            layer.self_attn.sliding_window = 6
        got = scored_logprobs(model, forest)
        assert (got - wide).abs().max() > 0.01
        with serving(model):
            wanted = separate_logprobs(model, forest)
    assert (got - wanted).abs().max() <= 1e-4


@kinds
def test_a_model_with_an_attention_of_its_own(kind):
    """It gets the whole mask, and a prefix in its cache."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4, "vocab_size": 60}
    still = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model("gptj", **sizes, **still, initializer_range=0.15)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    trainable = _with_virtual(model, kind)
    forest = probe_forest(model)
    with torch.no_grad():
        assert (scored_logprobs(model, forest) - separate_logprobs(model, forest)).abs().max() <= 1e-4
    model.train()
    recompute_layers(model)
    if kind.startswith("prefix"):
        with pytest.raises(ModelError, match="gradient checkpointing"):
            scored_logprobs(model, forest)
    else:
        assert all(grad.abs().max() > 0 for grad in _gradients(trainable, forest))


@pytest.mark.skipif(native.describe().startswith("off"), reason=f"native loops: {native.describe()}")
@kinds
def test_the_native_loops_give_the_same(kind, monkeypatch):
    trainable = _with_virtual(_ready("llama"), kind)
    forest = probe_forest(trainable.model)
    fast, fast_grads = scored_logprobs(trainable.model, forest), _gradients(trainable, forest)
    monkeypatch.setattr(native, "usable", lambda *_: False)
    assert (fast - scored_logprobs(trainable.model, forest)).abs().max() <= 1e-5
    for one, other in zip(fast_grads, _gradients(trainable, forest), strict=True):
        assert (one - other).abs().max() <= 1e-6


@kinds
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_generation_with_a_cache_is_generation_without(kind, family):
    """Prompts of several lengths share a batch: padding stands between virtual tokens and words and changes nothing."""
    model = _ready(family)
    _with_virtual(model, kind)
    prompts = [[5, 9, 11, 30], [7, 8], [40, 3, 22, 6, 17, 19]]
    with serving(model):
        together = generation._batch(model, prompts, 6, [], None)
        for prompt, reply in zip(prompts, together, strict=True):
            ids = list(prompt)
            for _ in range(6):
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            assert ids[len(prompt) :] == reply


def test_positions_are_counted_with_the_virtual_ones():
    model = _ready("gpt2")  # 64 learned positions
    trainable = _with_virtual(model, "prompt")
    ids = np.zeros(60, np.int32)
    forest = plant([Tree(segments=(Segment(ids=ids, scored=ids == 0),))])
    with pytest.raises(ModelError, match=r"60 tokens after 5 virtual ones; at most 64.*data.max_length to 59"):
        scored_logprobs(model, forest)
    with pytest.raises(ModelError, match="65 tokens of prompt and reply"):
        generation._check_positions(model, 60)
    with trainable.disabled():
        assert scored_logprobs(model, forest).isfinite().all()


def test_a_copy_has_virtual_tokens_of_its_own():
    model = _ready("llama")
    trainable = _with_virtual(model, "prompt")
    forest = probe_forest(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        before = scored_logprobs(model, forest)
        trainable.parameters()["prompt_embeddings"].add_(1.0)
        assert torch.equal(scored_logprobs(other, forest), before)
        assert (scored_logprobs(model, forest) - before).abs().max() > 0.01


def test_masks_that_cannot_be_extended_are_refused():
    model = tiny("llama")
    _with_virtual(model, "prompt")
    with pytest.raises(ModelError, match="a mask of Tensor with 4 axes"):
        model(input_ids=torch.tensor([[4, 5]]), attention_mask=torch.ones(1, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(ModelError, match="a second time"):
        _with_virtual(model, "prefix")


def test_hidden_states_and_tuples_are_those_of_the_words():
    model = tiny("llama")
    _with_virtual(model, "prompt")
    ids = torch.tensor([[4, 5, 6]])
    whole = model.model(input_ids=ids, output_hidden_states=True)
    assert {hidden.shape for hidden in whole.hidden_states} == {(1, 3, 32)}
    assert torch.equal(model.model(input_ids=ids, return_dict=False)[0], whole.last_hidden_state)


def test_operations_count_the_pairs_with_virtual_tokens():
    plain = _ready("llama")
    plain.requires_grad_(False)
    plain.model.embed_tokens.weight.requires_grad_(True)  # a gradient through all layers, as for a prompt
    base = count_rates(plain)
    model = _ready("llama")
    trainable = _with_virtual(model, "prompt")
    found = count_rates(model)
    assert found.per_pair == base.per_pair
    assert found.per_token == pytest.approx(base.per_token + N * base.per_pair)
    with trainable.disabled():
        assert count_rates(model).per_token < base.per_token  # no gradient


def test_every_tree_stands_under_the_new_segment():
    forest = probe_forest(tiny("llama"))
    rooted = under(forest, 3)
    seen = visible(rooted)
    assert torch.equal(seen[3:, 3:], visible(forest))
    assert seen[3:, :3].all()
    assert torch.equal(
        seen[:3], torch.ones(3, seen.shape[1], dtype=torch.bool).tril() & (torch.arange(seen.shape[1]) < 3)
    )
    assert torch.equal(rooted.input_ids[rooted.score_index], forest.input_ids[forest.score_index])
    assert replace(rooted, grades=()).parents.count(-1) == 1
