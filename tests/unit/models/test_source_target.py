# SPDX-License-Identifier: Apache-2.0
"""Encoder-decoders are loaded for SEQ_2_SEQ_LM and nothing else, and nothing else is loaded for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.pairs import tiny_pairs
from tests.tiny import tiny

from luthier.core.errors import ModelError
from luthier.models import load_model, outputs
from luthier.models.probe_pairs import probe_pairs
from luthier.models.source_target import is_encoder_decoder
from luthier.recipe import Model

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

pytestmark = pytest.mark.filterwarnings("ignore")


def load(folder: Path, **words: Any) -> PreTrainedModel:
    return load_model(Model(model_name_or_path=str(folder)), torch.float32, **words)


@pytest.mark.parametrize("name", ["T5", "T5 1.1, Flan-T5", "BART"])
@pytest.mark.parametrize("task", ["SEQ_2_SEQ_LM", None])
def test_a_saved_model_says_the_same(name: str, task: Any, tmp_path: Path) -> None:
    model = tiny_pairs(name)
    model.save_pretrained(tmp_path)
    again = load(tmp_path, task=task).eval()
    forest = probe_pairs(model)
    assert is_encoder_decoder(again)
    assert torch.equal(outputs(again, forest), outputs(model, forest))


@pytest.mark.parametrize(
    ("edit", "task", "found"),
    [
        ({}, "CAUSAL_LM", "an encoder-decoder, for CAUSAL_LM"),
        ({}, "SEQ_CLS", "an encoder-decoder, for SEQ_CLS"),
        ({"decoder_start_token_id": None}, "SEQ_2_SEQ_LM", "no decoder_start_token_id"),
        ({"architectures": ["T5ForSequenceClassification"]}, "SEQ_2_SEQ_LM", "whose head does not write text"),
    ],
)
def test_what_does_not_fit_is_refused(edit: dict[str, Any], task: Any, found: str, tmp_path: Path) -> None:
    tiny_pairs("T5").save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(told | edit))
    with pytest.raises(ModelError, match=found):
        load(tmp_path, task=task)


def test_a_decoder_writes_from_no_source(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM for SEQ_2_SEQ_LM.*choose such a model, or task CAUSAL_LM"):
        load(tmp_path, task="SEQ_2_SEQ_LM")
