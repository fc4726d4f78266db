# SPDX-License-Identifier: Apache-2.0
"""Virtual tokens before every architecture of docs/models.md: forest, forward and generation agree, or it refuses."""

from __future__ import annotations

import pytest
import torch
from tests.parity.families import PROVEN, build

from luthier.core import registry
from luthier.core.errors import ModelError
from luthier.models import generate, scored_logprobs, serving
from luthier.models.alone import separate_logprobs
from luthier.models.probe import probe_forest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")]

PROMPTS = [[5, 9, 11], [7]]
MASKS = "a mask of dict"  # the multimodal model makes them before its text decoder is asked
SHAPES = "keys and values of 2 shapes"  # multi-head latent attention
REFUSED = {
    ("Gemma 3 (text of the multimodal model)", "prompt"): MASKS,
    ("Gemma 3 (text of the multimodal model)", "prefix"): MASKS,
    ("Gemma 4 (text of the multimodal model)", "prompt"): "embeddings of each layer",
    ("Gemma 4 (text of the multimodal model)", "prefix"): MASKS,
    ("Gemma 4 (text)", "prompt"): "embeddings of each layer",
    ("DeepSeek-V2", "prefix"): SHAPES,
    ("DeepSeek-V3", "prefix"): SHAPES,
    ("MiniCPM3", "prefix"): SHAPES,
    ("DiffLlama", "prefix"): "a forest differs from separate forwards",
    ("JetMoE", "prefix"): "has keys",
}


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize("family", PROVEN)
def test_virtual_tokens_before_a_family(family, kind):
    model, method = build(*PROVEN[family]), registry.get("methods", kind)
    names = [name for name, _ in model.named_parameters()]
    if (family, kind) in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[family, kind]):
            method.apply(model, method.Config(num_virtual_tokens=4))
        assert names == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        return
    trainable = method.apply(model, method.Config(num_virtual_tokens=4))
    forest = probe_forest(model)
    with torch.no_grad():
        got = scored_logprobs(model, forest)
        with trainable.disabled():
            base = scored_logprobs(model, forest)
        with serving(model):
            wanted = separate_logprobs(model, forest)
            together = _replies(model)
            assert together == [_alone(model, prompt) for prompt in PROMPTS]
    assert (got - wanted).abs().max() <= 2e-5
    assert (got - base).abs().max() > 0.01


def _replies(model) -> list[list[int]]:
    """Of both prompts, with a cache, and with padding where `generate` has some."""
    replies = {}
    for numbers in generate._batches(model, [0, 1], PROMPTS, 2):
        rows = generate._batch(model, [PROMPTS[number] for number in numbers], 3, [], None)
        replies |= dict(zip(numbers, rows, strict=True))
    return [replies[0], replies[1]]


def _alone(model, prompt: list[int]) -> list[int]:
    """Without a cache and without padding."""
    ids = list(prompt)
    for _ in range(3):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]
