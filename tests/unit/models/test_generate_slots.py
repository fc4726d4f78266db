# SPDX-License-Identifier: Apache-2.0
"""Replies over slots are those of transformers' own `generate`, token for token, in float32."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny

from luthier.core import registry
from luthier.models import generate_slots, planted, slots
from luthier.models.generate import _padded
from luthier.models.generate_pairs import Asked
from luthier.models.generate_slots import write_replies

PROMPTS = [[5, 6, 7, 8], [9], [11, 12, 13, 14, 15, 16, 17], [5, 6, 7, 9], [20, 21], [33, 34, 35, 36, 37]]
STOPS = [2, 17, 30]
METHODS = {
    "lora": {"r": 4},
    "prefix": {"num_virtual_tokens": 3},
    "prompt": {"num_virtual_tokens": 3},
    "llama_adapter": {"adapter_len": 3},
}
GREEDY = Asked(max_new_tokens=10, batch_size=4, temperature=0.0, top_p=1.0, seed=0)


def made(family="llama", method=None):
    model = tiny(family)
    model.set_attn_implementation(planted.NAME)
    if method:
        entry = registry.get("methods", method)
        for parameter in entry.apply(model, entry.Config(**METHODS[method])).parameters().values():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    ("family", "method"),
    [(family, None) for family in ("llama", "gpt2", "neox", "gemma3", "experts")]
    + [("llama", method) for method in METHODS]
    + [("gpt2", "prompt"), ("gpt2", "llama_adapter")],
)
def test_greedy_replies_are_those_of_transformers(family, method):
    model = made(family, method)
    model.train()
    found = write_replies(model, PROMPTS, STOPS, GREEDY)
    assert found == _padded(model, PROMPTS, STOPS, GREEDY)
    assert model.training
    assert model.config._attn_implementation == planted.NAME
    assert any(map(len, found))


def test_draws_chunks_and_what_all_share(monkeypatch):
    model, begin = made(), list(range(40, 52))
    drawn = Asked(max_new_tokens=6, batch_size=2, temperature=0.9, top_p=0.9, seed=3)
    prompts = [begin + prompt for prompt in PROMPTS]
    passes, right = [], generate_slots._Writing._pass

    def count(self, brought):
        passes.append(sum(len(ids) for _, _, ids in brought))
        return right(self, brought)

    monkeypatch.setattr(generate_slots._Writing, "_pass", count)
    for asked in (drawn, GREEDY):
        wanted = _padded(model, prompts, STOPS, asked)
        assert write_replies(model, prompts, STOPS, asked) == wanted
        assert sum(passes) < sum(map(len, prompts)) + sum(map(len, wanted))  # the twelve tokens were read once
        monkeypatch.setattr(generate_slots, "PREFILL", 5)
        assert write_replies(model, prompts, STOPS, asked) == wanted
        monkeypatch.undo()
        monkeypatch.setattr(generate_slots._Writing, "_pass", count)
        passes.clear()
    # One prompt is the beginning of another, and of all.
    nested = [begin, [*begin, 3], begin]
    assert write_replies(model, nested, STOPS, GREEDY) == _padded(model, nested, STOPS, GREEDY)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_without_the_loops_in_c(family, monkeypatch):
    model = made(family)
    wanted = write_replies(model, PROMPTS, STOPS, GREEDY)
    monkeypatch.setattr(slots, "fits", lambda *_: False)
    assert write_replies(model, PROMPTS, STOPS, GREEDY) == wanted


def test_what_is_not_proven_is_left_to_transformers(monkeypatch, caplog):
    model = made()
    generate_slots._say_padded.cache_clear()
    right = slots.Slots.of

    def late(self, module, key, value):
        if self.layout.pieces[-1].begin == 6:
            key.mul_(0.5)
        return right(self, module, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(slots.Slots, "of", late)
        for _ in range(2):
            assert write_replies(model, PROMPTS, STOPS, GREEDY) is None
    assert [record.message.partition(": ")[0] for record in caplog.records] == [type(model).__name__], "said, and once"
    assert write_replies(model, PROMPTS, STOPS, GREEDY) is not None
    model.set_attn_implementation("sdpa")
    assert write_replies(model, PROMPTS, STOPS, GREEDY) is None
