# SPDX-License-Identifier: Apache-2.0
"""Every encoder in docs/models.md, for each task: a forest of texts equals separate forwards, or it is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tests.encoders import PROVEN, REFUSED, TASKS, encoder, folder_of
from tests.parity.families import PROVEN as DECODERS
from tests.parity.families import build
from transformers import PreTrainedModel

from luthier.core.errors import ModelError
from luthier.kernels.forest import Forest
from luthier.models import load_model, outputs
from luthier.models.alone import separate_outputs
from luthier.models.backbone import own_attention
from luthier.models.planted import NAME
from luthier.models.probe import forest_error, leak_size, probe_forest, prove_forest
from luthier.models.recomputing import recompute_layers
from luthier.recipe import Model

pytestmark = pytest.mark.parity
CASES = [(name, task) for name, (_, _, lacking) in PROVEN.items() for task in TASKS if task not in lacking]
# Their rotary table works in float32 whatever the weights are.
FLOAT32_INSIDE = {"ModernBERT", "ModernBERT, means", "GTE", "Nomic BERT", "EuroBERT"}


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_forest_of_texts_equals_separate_forwards(name: str, task: str, tmp_path: Path) -> None:
    model = encoder(folder_of(tmp_path, name), task)  # type: ignore[arg-type]
    _proven(model, name, 1e-6 if name in FLOAT32_INSIDE else 1e-10)


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Mistral", "GPT-2", "Gemma 3 (text)"])
@pytest.mark.parametrize("task", ["TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"])
def test_a_decoder_gives_what_its_class_gives(name: str, task: str, tmp_path: Path) -> None:
    build(*DECODERS[name]).save_pretrained(tmp_path)
    try:
        model = encoder(tmp_path, task)  # type: ignore[arg-type]
    except ModelError as error:
        assert "of which transformers has no" in str(error)  # noqa: PT017 - Gemma 3 answers no questions
        pytest.skip(str(error))
    _proven(model, name, 1e-6)


def _proven(model: PreTrainedModel, name: str, bound: float) -> None:
    assert prove_forest(model, name) <= 1e-5
    assert leak_size(model) > 0.04, "the tiny model hardly reacts to its context: it proves nothing"
    forest = probe_forest(model)
    for module in model.double().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # heads have their own: a forward in training mode is exact now
    assert forest_error(model)[0] <= bound
    got, wanted = (_gradients(model, forest, alone=alone) for alone in (False, True))
    assert got.keys() == wanted.keys()
    largest = max(float(grad.norm()) for grad in wanted.values())
    felt = {name: grad for name, grad in wanted.items() if float(grad.norm()) > 1e-6 * largest}
    assert max(float((got[name] - grad).norm() / grad.norm()) for name, grad in felt.items()) <= 1e-6


def _gradients(model: PreTrainedModel, forest: Forest, *, alone: bool) -> dict[str, torch.Tensor]:
    """Gradients of a weighted sum of what the model gives, with recomputed layers in the forest."""
    model.zero_grad()
    model.train()
    if alone:
        model.set_attn_implementation(own_attention(model))
        found = separate_outputs(model, forest)
        model.set_attn_implementation(NAME)
    else:
        recomputes = model.supports_gradient_checkpointing
        if recomputes:
            recompute_layers(model)
        found = outputs(model, forest).double()
        if recomputes:
            recompute_layers(model, on=False)
    (found * torch.linspace(0.5, 1.5, found.numel(), dtype=torch.float64).view_as(found)).sum().backward()
    model.eval()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["BERT", "ModernBERT"])
def test_bfloat16_is_proven_too(name: str, task: str, tmp_path: Path) -> None:
    prove_forest(encoder(folder_of(tmp_path, name), task).bfloat16(), name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(REFUSED[name][2])) as caught:
        prove_forest(encoder(folder_of(tmp_path, name), "TOKEN_CLS"), name)
    assert "choose" in caught.value.fix


def test_an_encoder_predicts_no_words(tmp_path: Path) -> None:
    for name in ("BERT", "DistilBERT", "ModernBERT"):
        folder = folder_of(tmp_path, name)
        with pytest.raises(ModelError, match=r"no causal language model.*what an encoder is for \(SEQ_CLS"):
            load_model(Model(model_name_or_path=str(folder)), torch.float32)


def test_the_document_names_every_encoder() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+?) +\|", text, re.MULTILINE)
    assert [name for name in (*PROVEN, *REFUSED) if name not in rows] == []
