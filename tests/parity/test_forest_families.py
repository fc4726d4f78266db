# SPDX-License-Identifier: Apache-2.0
"""Every architecture in docs/models.md: a forest equals separate forwards, gradients too, or it is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tests import encoders
from tests.parity.families import PROVEN, REFUSED, build
from transformers import PreTrainedModel

from luthier.core.errors import ModelError
from luthier.kernels.forest import Forest
from luthier.models import load_model, scored_logprobs, serving
from luthier.models.alone import separate_logprobs
from luthier.models.backbone import own_attention
from luthier.models.planted import NAME
from luthier.models.probe import forest_error, leak_size, probe_forest, prove_forest
from luthier.models.recomputing import recompute_layers
from luthier.recipe import Model

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),  # transformers 5.17
]

# Their router, their eager softmax or their rotary table works in float32 whatever the weights are: 4e-7 seen.
FLOAT32_INSIDE = {"Gemma 2", "VaultGemma", "GPT-J", "CodeGen", "GLM-4.5 (MoE)", "MiniMax-M2"}
FLOAT32_INSIDE |= {"DeepSeek-V2", "DeepSeek-V3"}


@pytest.mark.parametrize("name", PROVEN)
def test_forest_equals_separate_forwards(name: str) -> None:
    model = build(*PROVEN[name])
    assert prove_forest(model, name) <= 1e-5
    assert leak_size(model) > 0.04, "the tiny model hardly reacts to its context: it proves nothing"
    # Gradients: recomputing layers (checkpointing) must not lose the forest, so that path is the one measured.
    forest = probe_forest(model)
    got = _gradients(model, forest, alone=False)
    wanted = _gradients(model, forest, alone=True)
    # Rounding alone: up to 8e-6 seen (Persimmon). The proof is the float64 line below.
    assert _distance(got, wanted) <= 2e-5
    model.double().set_experts_implementation("eager")  # the grouped products have no float64
    assert forest_error(model)[0] <= (1e-6 if name in FLOAT32_INSIDE else 1e-10)
    assert _distance(_gradients(model, forest, alone=False), _gradients(model, forest, alone=True)) <= 1e-6


def _gradients(model: PreTrainedModel, forest: Forest, *, alone: bool) -> dict[str, torch.Tensor]:
    """Gradients of the log-probabilities' sum, each with a weight of its own so that no two errors cancel."""
    weights = torch.linspace(0.5, 1.5, forest.num_scored, dtype=torch.float64)
    model.zero_grad()
    model.train()
    if alone:
        before = model.config._attn_implementation
        model.set_attn_implementation(own_attention(model) if before == NAME else before)
        logps = separate_logprobs(model, forest)
        model.set_attn_implementation(before)
    else:
        if model.supports_gradient_checkpointing:
            recompute_layers(model)
        logps = scored_logprobs(model, forest)
    (logps.double() * weights).sum().backward()
    if not alone and model.supports_gradient_checkpointing:
        recompute_layers(model, on=False)
    model.eval()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _distance(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Largest relative difference over all parameters whose gradient is not mere rounding."""
    assert got.keys() == wanted.keys()
    largest = max(float(grad.norm()) for grad in wanted.values())
    assert largest > 0
    felt = {name: grad for name, grad in wanted.items() if float(grad.norm()) > 1e-6 * largest}
    return max(float((got[name] - grad).norm() / grad.norm()) for name, grad in felt.items())


@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "Mixtral", "Phi-3.5-MoE", "DeepSeek-V3", "gpt-oss", "Falcon"])
def test_bfloat16_is_proven_too(name: str) -> None:
    prove_forest(build(*PROVEN[name], torch.bfloat16), name)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    kind, settings, words = REFUSED[name]
    build(kind, settings, attention="eager").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=re.escape(words)) as caught:
        prove_forest(load_model(Model(model_name_or_path=str(tmp_path)), torch.float32), name)
    assert "choose" in caught.value.fix


def test_serving_is_the_models_own_attention() -> None:
    model = build(*PROVEN["Gemma 2"])
    with serving(model):
        assert model.config._attn_implementation == "eager", "transformers' sdpa leaves out the soft cap"
        assert not model.training
        assert not torch.is_grad_enabled()
    assert model.config._attn_implementation == NAME


def test_the_document_names_every_family() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+?) +\|", text, re.MULTILINE)
    assert [name for name in (*PROVEN, *REFUSED) if name not in rows] == []
    known = {*PROVEN, *REFUSED, *encoders.PROVEN, *encoders.REFUSED, "Family", "Encoder", "Refused encoder", "---"}
    assert [row for row in rows if row not in known] == []
