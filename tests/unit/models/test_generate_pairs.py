# SPDX-License-Identifier: Apache-2.0
"""Encoder-decoders write targets: the same whatever the batch, as by hand, and nothing from the folder's settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.pairs import PROVEN, save_words, tiny_pairs
from tests.reward import shake
from transformers import AutoTokenizer, GenerationConfig

from luthier.core import registry
from luthier.core.errors import DataError, ModelError
from luthier.models.generate import generate

pytestmark = pytest.mark.filterwarnings("ignore")

VOCABULARY = [f"w{number}" for number in range(56)]
SOURCES = ["w1 w2 w3", "w40", "w5 w6 w7 w8 w9", "w10 w10", "w9 w50 w4", "w20 w21 w22 w23 w24 w25 w26"]
METHODS = {"plain": {}, "lora": {"r": 4}, "prompt": {"num_virtual_tokens": 3}, "prefix": {"num_virtual_tokens": 3}}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("words")
    assert save_words(folder, VOCABULARY) == 60
    return AutoTokenizer.from_pretrained(folder)


def model_with(family: str, method: str) -> Any:
    model = tiny_pairs(family)
    if family == "T5":  # with one matrix for both ends it would say what it read: the start token, for ever
        random = torch.Generator().manual_seed(1)
        model.lm_head.weight = torch.nn.Parameter(torch.randn(60, 32, generator=random))
    if method != "plain":
        own = registry.get("methods", method)
        shake(own.apply(model, own.Config(**METHODS[method])).parameters().values())
    return model


@torch.no_grad()
def by_hand(model: Any, source: list[int], many: int) -> list[int]:
    """The likeliest token each time, each by a whole forward without a cache."""
    ids = [model.config.decoder_start_token_id]
    for _ in range(many):
        given = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([ids])}
        ids.append(int(model(**given, use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == 1:
            return ids[1:-1]
    return ids[1:]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["T5", "BART"])
def test_targets_are_the_likeliest_tokens_whatever_the_batch(family: str, method: str, words: Any) -> None:
    model = model_with(family, method)
    model.generation_config = GenerationConfig(num_beams=3, min_length=9, repetition_penalty=2.0)
    together = generate(model, words, SOURCES, max_new_tokens=6)
    wanted = [
        str(words.decode(by_hand(model, words(s)["input_ids"], 6), skip_special_tokens=True)).strip() for s in SOURCES
    ]
    assert together == wanted
    assert together == generate(model, words, SOURCES, max_new_tokens=6, batch_size=2)
    assert len(set(together)) > 2
    assert model.generation_config.num_beams == 3


def test_draws_turn_on_the_seed_alone(words: Any) -> None:
    model = tiny_pairs("T5")
    some = {"max_new_tokens": 6, "temperature": 1.0, "top_p": 0.9}
    first = generate(model, words, SOURCES, seed=1, **some)
    assert first == generate(model, words, SOURCES, seed=1, batch_size=1, **some)
    assert first != generate(model, words, SOURCES, seed=2, **some)


def test_conversations_of_one_question_are_sources(words: Any) -> None:
    model = tiny_pairs("T5")
    turns = [{"role": "system", "content": "w1 w2"}, {"role": "user", "content": "w3"}]
    assert generate(model, words, [turns], max_new_tokens=4) == generate(model, words, [SOURCES[0]], max_new_tokens=4)
    with pytest.raises(DataError, match="a conversation of 3 turns"):
        generate(model, words, [[*turns, {"role": "assistant", "content": "x"}]], max_new_tokens=4)
    with pytest.raises(DataError, match="no text"):
        generate(model, words, [" "])


def test_what_is_too_long_and_tokenizers_of_languages_are_refused(words: Any) -> None:
    model = tiny_pairs("BART")
    with pytest.raises(ModelError, match=r"a target of 65 tokens.*lower max_new_tokens"):
        generate(model, words, SOURCES, max_new_tokens=65)
    with pytest.raises(ModelError, match="a source of 81 tokens"):
        generate(model, words, ["w1 " * 80], max_new_tokens=4)
    words.src_lang = "en_XX"
    try:
        with pytest.raises(ModelError, match="marks each text with its language"):
            generate(model, words, SOURCES)
    finally:
        del words.src_lang


def test_a_forced_first_token_is_forced(words: Any) -> None:
    assert "Marian" in PROVEN
    model = tiny_pairs("Marian")
    model.config.forced_bos_token_id = 7
    model.generation_config.forced_bos_token_id = 7
    text = generate(model, words, SOURCES, max_new_tokens=3)
    first = str(words.decode([7]))
    assert all(target.startswith(first) for target in text)
