# SPDX-License-Identifier: Apache-2.0
"""The proof that a model runs forests notices what short forwards cannot show, and the ways in refuse to guess."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, masking_utils

from luthier.core.errors import ModelError
from luthier.core.types import Segment, Tree
from luthier.kernels.forest import Forest, plant
from luthier.models import scored_logprobs, serving
from luthier.models.backbone import hidden_states
from luthier.models.planted import NAME, Seen, _interface, planted
from luthier.models.probe import hides_like_a_window, leak_size, probe_forest, prove_forest


def small(kind: str = "llama", **settings: Any) -> PreTrainedModel:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {
        "num_key_value_heads": 1,
        "vocab_size": 40,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = AutoConfig.for_model(kind, **(sizes | settings))
    return AutoModelForCausalLM.from_config(config, attn_implementation=NAME).eval()


def forest_of(*lengths: int) -> Forest:
    ids = [np.arange(length, dtype=np.int32) % 40 for length in lengths]
    return plant([Tree(segments=(Segment(ids=one, scored=np.ones(len(one), np.bool_)),)) for one in ids])


@pytest.mark.parametrize("window", [None, 1, 2, 100, 128, 4096, 5000])
def test_windows_of_any_size_are_told_apart(window: int | None) -> None:
    if window is None:
        function = masking_utils.causal_mask_function
    else:
        function = masking_utils.sliding_window_causal_mask_function(window)
    assert hides_like_a_window(function, window)
    for other in (None, 1, 2, 3, 100, 101, 4095, 4096, 4097, 10**5):
        assert hides_like_a_window(function, other) is (other == window)


@pytest.mark.parametrize("window", [None, 1, 6, 64])
def test_windows_of_encoders_reach_both_ways(window: int | None) -> None:
    both = masking_utils.sliding_window_bidirectional_mask_function
    function = masking_utils.bidirectional_mask_function if window is None else both(window)
    assert hides_like_a_window(function, window)
    assert not hides_like_a_window(function, 7)


@pytest.mark.parametrize(
    "function",
    [
        lambda b, h, q, k: q // 8192 == k // 8192,
        masking_utils.chunked_causal_mask_function(8192, torch.zeros(1, dtype=torch.int64)),
        masking_utils.and_masks(masking_utils.causal_mask_function, lambda b, h, q, k: (q - k < 4096) | (k < 4)),
        masking_utils.or_masks(masking_utils.causal_mask_function, lambda b, h, q, k: (q < 8) & (k < 8)),
        masking_utils.and_masks(
            masking_utils.causal_mask_function, masking_utils.padding_mask_function(torch.ones(1, 3, dtype=torch.bool))
        ),
    ],
    ids=[
        "chunks both ways",
        "chunks of 8192",
        "window with sinks",
        "a prefix that sees itself",
        "looks into the batch",
    ],
)
def test_other_masks_are_no_windows(function: Any) -> None:
    assert not hides_like_a_window(function, None)
    assert not hides_like_a_window(function, 4096)
    assert not hides_like_a_window(function, 8192)


def test_a_window_longer_than_the_probe_is_used_and_proven() -> None:
    model = small("mistral", sliding_window=9)  # the probe's branches have 15 tokens at most
    prove_forest(model, "mistral")
    long = forest_of(40)
    with serving(model):
        wanted = model(input_ids=long.input_ids[None], use_cache=False).logits[0].log_softmax(-1)
    wanted = wanted[:-1].gather(1, long.input_ids[1:, None])[:, 0]
    torch.testing.assert_close(scored_logprobs(model, long), wanted, atol=1e-5, rtol=0)


def test_a_model_whose_head_does_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    plain = type(model).forward

    def louder(self: Any, *words: Any, **more: Any) -> Any:
        output = plain(self, *words, **more)
        output.logits = output.logits * 1.5
        return output

    monkeypatch.setattr(type(model), "forward", louder)
    with pytest.raises(ModelError, match="a forest differs from separate forwards by"):
        prove_forest(model, "louder")


def test_a_leak_is_larger_than_any_rounding() -> None:
    model = small()
    assert leak_size(model) > 0.02
    forest = probe_forest(model)
    leaking = replace(forest, parents=(-1, 0, 1, 1, -1, 4, 5, 5))
    assert float((scored_logprobs(model, forest) - scored_logprobs(model, leaking)).detach().abs().max()) > 0.02


def test_proving_leaves_the_model_as_it_was() -> None:
    model = small().train()
    prove_forest(model, "llama")
    assert model.training
    assert model.config._attn_implementation == NAME
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_ropes_that_depend_on_the_batch_end_where_they_change(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 20}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4} if kind == "longrope" else {}
    model = small(rope_parameters=rope, max_position_embeddings=20)
    prove_forest(model, kind)
    assert hidden_states(model, forest_of(20, 20, 7)).shape == (47, 16)
    with pytest.raises(ModelError, match="an example of 21 tokens; at most 20") as caught:
        hidden_states(model, forest_of(3, 21))
    assert caught.value.fix == "set data.max_length to 20 or less"


def test_ordinary_ropes_have_no_end() -> None:
    assert hidden_states(small(max_position_embeddings=20), forest_of(30)).shape == (30, 16)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 20}), ("opt", {"ffn_dim": 24})],
)
def test_learned_positions_end(kind: str, settings: dict[str, Any]) -> None:
    model = small(kind, **(settings | {"max_position_embeddings": 20, "word_embed_proj_dim": 16}))
    assert hidden_states(model, forest_of(20, 20)).shape == (40, 16)
    with pytest.raises(
        ModelError, match="an example of 21 tokens; at most 20: the model has learned no more positions"
    ):
        hidden_states(model, forest_of(21))


def test_a_forest_must_be_planted() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"no forest was planted; use luthier\.models\.serving"):
        model(input_ids=torch.zeros(1, 3, dtype=torch.int64))
    with serving(model):
        assert model.generate(torch.zeros(1, 3, dtype=torch.int64), max_new_tokens=2, do_sample=False).shape == (1, 5)


def test_a_failed_forward_unplants() -> None:
    with pytest.raises(RuntimeError, match="stop"), planted(forest_of(3)):
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="no forest was planted"):
        small()(input_ids=torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("mask", "words", "message"),
    [
        (None, {}, "makes a mask of its own"),
        (torch.zeros(1, 1, 3, 3), {}, "makes a mask of its own"),
        ("window 4", {"sliding_window": 5}, "a window of 5, its mask one of 4"),
        ("window None", {"sliding_window": 5}, "a window of 5, its mask one of None"),
        ("window None", {"position_bias": torch.zeros(1)}, "passes position_bias to its attention"),
        ("window None", {"is_causal": False}, "is not causal"),
    ],
)
def test_what_an_attention_would_have_to_guess_is_refused(mask: Any, words: dict[str, Any], message: str) -> None:
    if isinstance(mask, str):
        mask = Seen(forest_of(3), {"window 4": 4, "window None": None}[mask])
    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match=message):
        _interface(torch.nn.Module(), states, states, states, mask, **words)


def test_what_says_nothing_is_passed_over() -> None:
    states = torch.randn(1, 2, 3, 4)
    out, weights = _interface(
        torch.nn.Module(),
        states,
        states,
        states,
        Seen(forest_of(3), 4),
        sliding_window=4,
        is_causal=True,
        use_cache=False,
    )
    assert out.shape == (1, 3, 2, 4)
    assert out.is_contiguous()
    assert weights is None


def test_dropout_in_training_only() -> None:
    model = small(attention_dropout=0.5)
    forest = probe_forest(model)
    once, again = scored_logprobs(model, forest), scored_logprobs(model, forest)
    assert torch.equal(once, again)
    model.train()
    assert not torch.equal(scored_logprobs(model, forest), scored_logprobs(model, forest))
