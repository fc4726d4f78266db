# SPDX-License-Identifier: Apache-2.0
"""Generation: the same reply whatever the batch, stops, templates, draws, and nothing taken from the checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from luthier.core.errors import DataError, ModelError, UserError
from luthier.methods import lora
from luthier.models import load_model, load_tokenizer
from luthier.models.generate import generate, stop_ids
from luthier.models.planted import NAME
from luthier.models.sampling import Draw, nucleus
from luthier.recipe import Model

PROMPTS = [
    "a",
    "What is the capital of France?",
    "Say it.",
    "早上好",
    "x" * 60,
    "Give the opposite. hot",
    "2 + 3",
    "k",
] * 2


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_llama))


@pytest.fixture
def model(tiny_llama: Path) -> PreTrainedModel:
    return load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)


def _adapted(model: PreTrainedModel) -> PreTrainedModel:
    trainable = lora.apply(model, lora.Config(r=4, target_modules="all-linear", lora_dropout=0.5))
    with torch.no_grad():
        for parameter in trainable.parameters().values():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("method", ["plain", "lora"])
@pytest.mark.parametrize("words", [{}, {"raw": True}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}])
def test_the_batch_does_not_matter(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, method: str, words: dict[str, Any]
) -> None:
    if method == "lora":
        model = _adapted(model)
    one = generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=1, **words)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=16, **words) == one
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=5, **words) == one
    assert len(set(one)) > 4


def test_an_adapter_changes_replies_and_leaves_when_disabled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    before = generate(model, tokenizer, PROMPTS, max_new_tokens=6)
    trainable = lora.apply(model, lora.Config(r=4))
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=6) == before  # B starts at zero
    with torch.no_grad():
        for parameter in trainable.parameters().values():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=6) != before
    with trainable.disabled():
        assert generate(model, tokenizer, PROMPTS, max_new_tokens=6) == before


def test_greedy_is_the_likeliest_token_each_time(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    (got,) = generate(model, tokenizer, ["The sky is"], max_new_tokens=6, raw=True)
    model.set_attn_implementation("eager")
    ids = tokenizer("The sky is", return_tensors="pt")["input_ids"]
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    reply = ids[0, -6:].tolist()
    stop = tokenizer.eos_token_id
    reply = reply[: reply.index(stop)] if stop in reply else reply
    assert got == tokenizer.decode(reply, skip_special_tokens=True)


def test_the_model_is_left_as_it_was(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model.train()
    own = model.generation_config
    generate(model, tokenizer, ["a"], max_new_tokens=2)
    assert model.training
    assert model.generation_config is own
    assert model.config._attn_implementation == NAME
    assert generate(model, tokenizer, []) == []


def test_the_checkpoints_own_settings_are_not_used_and_not_warned_about(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=5)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, top_p=0.5, top_k=2, repetition_penalty=3.0, max_length=7
    )
    logger = logging.getLogger("transformers")
    logger.propagate, before = True, logger.propagate
    with caplog.at_level(logging.WARNING):
        assert generate(model, tokenizer, PROMPTS, max_new_tokens=5) == plain
    logger.propagate = before
    assert caplog.messages == []


def test_replies_stop_at_every_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The tokenizer's end, the checkpoint's ends, the template's end of turn."""
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    model.generation_config = GenerationConfig(eos_token_id=[user, 7])
    assert stop_ids(model, tokenizer) == sorted({tokenizer.eos_token_id, user, 7})
    other = load_tokenizer(tokenizer.name_or_path)
    other.chat_template = "{% for m in messages %}{{ m['content'] }}\n<|tool|>{% endfor %}"
    tool = other.convert_tokens_to_ids("<|tool|>")
    assert tool in stop_ids(model, other)
    assert tool not in stop_ids(model, other, raw=True)
    for template in ("{{ raise_exception('no') }}", "{% for m in messages %}{{ m['content'] }} END {% endfor %}", None):
        other.chat_template = template
        assert stop_ids(model, other) == stop_ids(model, other, raw=True)


def test_a_stop_ends_the_reply_and_is_not_in_it(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    whole = generate(model, tokenizer, ["Once"], max_new_tokens=6, raw=True)[0]
    ids = tokenizer(whole)["input_ids"]
    model.generation_config = GenerationConfig(eos_token_id=ids[2])
    stopped = generate(model, tokenizer, ["Once"], max_new_tokens=6, raw=True)[0]
    assert stopped == tokenizer.decode(ids[: ids.index(ids[2])])


def test_strings_are_user_turns_unless_raw(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    said = generate(model, tokenizer, ["Hello"], max_new_tokens=6)
    assert generate(model, tokenizer, [[{"role": "user", "content": "Hello"}]], max_new_tokens=6) == said
    rendered = "<|user|>\nHello<|end|>\n<|assistant|>\n"
    assert [text.strip() for text in generate(model, tokenizer, [rendered], max_new_tokens=6, raw=True)] == said
    assert generate(model, tokenizer, ["Hello"], max_new_tokens=6, raw=True) != said


def test_draws_follow_the_softmax() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(4000, 4)
    generators = [torch.Generator().manual_seed(number) for number in range(4000)]
    drawn = Draw(2.0, 1.0, generators)(torch.zeros(4000, 1), scores).argmax(-1)
    share = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(share, torch.softmax(scores[0] / 2.0, -1), atol=0.03, rtol=0)


def test_the_nucleus_is_the_smallest_likeliest_set() -> None:
    scores = torch.log(torch.tensor([[0.1, 0.5, 0.3, 0.1], [0.97, 0.01, 0.01, 0.01]]))
    kept = nucleus(scores, 0.6) > float("-inf")
    assert kept.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert (nucleus(scores, 1e-9) > float("-inf")).sum(-1).tolist() == [1, 1]


def test_seeds(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    words: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.0}
    assert generate(model, tokenizer, PROMPTS, seed=1, **words) == generate(model, tokenizer, PROMPTS, seed=1, **words)
    assert generate(model, tokenizer, PROMPTS, seed=1, **words) != generate(model, tokenizer, PROMPTS, seed=2, **words)
    same = generate(model, tokenizer, ["Hello"] * 6, seed=1, **words)
    assert len(set(same)) > 1, "equal prompts draw on their own"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"temperature": -1.0}, "temperature: -1.0; 0 for the likeliest"),
        ({"top_p": 0.0}, "top_p: 0.0; above 0"),
        ({"batch_size": 0}, "batch_size: 0; at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0; at least 1"),
    ],
)
def test_wrong_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        generate(model, tokenizer, ["a"], **words)


def test_wrong_prompts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="prompt 2: no tokens"):
        generate(model, tokenizer, ["a", ""], raw=True)
    with pytest.raises(DataError, match="prompt 1: the chat template refuses it"):
        generate(model, tokenizer, [[{"from": "human"}]])
    other = load_tokenizer(tokenizer.name_or_path)
    other.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        generate(model, other, ["a"])


def test_learned_positions_are_not_overrun(tokenizer: PreTrainedTokenizerBase) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=12))
    assert generate(small, tokenizer, ["a"], max_new_tokens=4, raw=True)
    with pytest.raises(ModelError, match=r"\d+ tokens of prompt and reply; at most 12"):
        generate(small, tokenizer, ["a"], max_new_tokens=12, raw=True)
