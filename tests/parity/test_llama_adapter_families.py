# SPDX-License-Identifier: Apache-2.0
"""LLaMA-Adapter on every architecture of docs/models.md: forest, forward and generation agree, or it refuses."""

from __future__ import annotations

import pytest
import torch
from tests.parity.families import PROVEN, build
from tests.parity.test_virtual_families import PROMPTS, _alone, _replies

from luthier.core.errors import ModelError
from luthier.methods import llama_adapter
from luthier.models import scored_logprobs, serving
from luthier.models.alone import separate_logprobs
from luthier.models.probe import probe_forest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")]

ELSEWHERE = "with keys and values from elsewhere"  # latent attention, experts of attention, other orders in one linear
REFUSED = {
    **dict.fromkeys(["GPT-BigCode", "CodeGen", "Falcon", "Falcon, new decoder"], ELSEWHERE),
    **dict.fromkeys(["DeepSeek-V2", "DeepSeek-V3", "MiniCPM3", "JetMoE"], ELSEWHERE),
    "GPT-J": "does not ask its configuration for the attention",
}


@pytest.mark.parametrize("family", PROVEN)
def test_prompts_in_a_family(family):
    model = build(*PROVEN[family])
    names = [name for name, _ in model.named_parameters()]
    configs = [getattr(module, "config", None) for module in model.modules()]
    if family in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[family]):
            llama_adapter.apply(model, llama_adapter.Config(adapter_len=4))
        assert names == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert all(here is getattr(m, "config", None) for here, m in zip(configs, model.modules(), strict=True))
        return
    trainable = llama_adapter.apply(model, llama_adapter.Config(adapter_len=4))
    with torch.no_grad():
        for name, parameter in trainable.parameters().items():
            if name.endswith("gate"):
                parameter.fill_(1.0)
        forest = probe_forest(model)
        got = scored_logprobs(model, forest)
        with trainable.disabled():
            base = scored_logprobs(model, forest)
        with serving(model):
            wanted = separate_logprobs(model, forest)
            assert _replies(model) == [_alone(model, prompt) for prompt in PROMPTS]
    assert (got - wanted).abs().max() <= 2e-5
    assert (got - base).abs().max() > 0.01
