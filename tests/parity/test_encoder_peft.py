# SPDX-License-Identifier: Apache-2.0
"""Methods on encoders equal PEFT's, both ways, for each task: what is written there loads here and gives the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.encoders import TASKS, encoder, folder_of, texts
from tests.reward import shake
from transformers import PreTrainedModel

from luthier.core import registry
from luthier.core.errors import ModelError
from luthier.core.trainable import Trainable
from luthier.export.adapter import load_adapter
from luthier.export.origin import find_origin
from luthier.models import outputs, serving
from luthier.models.encoders import tokens_of
from luthier.models.tasks import auto_class

peft = pytest.importorskip("peft")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]  # PEFT warns about positions and layers

# Luthier's keys (PEFT spells them alike) and PEFT's class.
VIRTUAL = {"num_virtual_tokens": 4}
KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "lora": ("lora", {"r": 4, "lora_alpha": 8.0}, "LoraConfig"),
    "dora": ("lora", {"r": 4, "lora_alpha": 8.0, "use_dora": True}, "LoraConfig"),
    "ia3": ("ia3", {"target_modules": ("key", "value", "output.dense")}, "IA3Config"),
    "norm": ("norm", {}, "LNTuningConfig"),
    "prompt": ("prompt", VIRTUAL, "PromptTuningConfig"),
    "ptuning": ("ptuning", VIRTUAL | {"encoder_hidden_size": 12}, "PromptEncoderConfig"),
    "prefix": ("prefix", VIRTUAL, "PrefixTuningConfig"),
}
FAMILIES = ("BERT", "RoBERTa", "DistilBERT", "ModernBERT")
LINEARS = {"DistilBERT": ("k_lin", "v_lin", "lin2"), "ModernBERT": ("Wqkv", "mlp.Wo")}
FOREST = texts((9, 5, 12), parts=2)


def _applied(folder: Path, name: str, kind: str, task: Any) -> Trainable:
    method, keys, _ = KINDS[kind]
    if kind == "ia3":
        ends = LINEARS.get(name, keys["target_modules"])
        keys = {"target_modules": ends, "feedforward_modules": ends[-1:]}
    module = registry.get("methods", method)
    torch.manual_seed(0)
    return module.apply(encoder(folder, task), module.Config(**keys))  # type: ignore[no-any-return]


@torch.no_grad()
def _rows(model: Any, task: str, typed: bool) -> list[torch.Tensor]:
    """What a plain model says of each text alone, of its own tokens."""
    found = []
    for start, end in zip(FOREST.starts[:-1], FOREST.starts[1:], strict=True):
        words = {"input_ids": FOREST.input_ids[start:end][None]}
        words["attention_mask"] = torch.ones_like(words["input_ids"])
        if typed and FOREST.type_ids is not None:
            words["token_type_ids"] = FOREST.type_ids[start:end][None]
        output = model(**words)
        found.append(output.logits[0] if task == "SEQ_CLS" else tokens_of(output)[0, -(end - start) :])
    return found


@torch.no_grad()
def _in_a_forest(model: PreTrainedModel, typed: bool) -> list[torch.Tensor]:
    forest = FOREST if typed else replace(FOREST, type_ids=None)
    found = outputs(model.eval(), forest)
    return list(found) if len(found) == len(forest.parents) else list(found.split(forest.lengths()))


def _typed(name: str, kind: str, task: str) -> bool:
    """Whether texts have two parts: PEFT 0.21 drops those of questions, and of features with virtual tokens."""
    return (
        name == "BERT"
        and task != "QUESTION_ANS"
        and not (task == "FEATURE_EXTRACTION" and "num_virtual_tokens" in KINDS[kind][1])
    )


def _far(here: list[torch.Tensor], there: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_what_is_written_here(kind: str, task: Any, name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, name)
    if kind == "prefix" and name in ("DistilBERT", "ModernBERT"):
        with pytest.raises(ModelError, match="keys and values"):
            _applied(folder, name, kind, task)
        return
    trainable, typed = _applied(folder, name, kind, task), _typed(name, kind, task)
    model: Any = trainable.model
    with torch.no_grad(), trainable.disabled():
        before = _in_a_forest(model, typed)
    shake(trainable.parameters().values(), 0.2)
    (tmp_path / "adapter").mkdir()
    trainable.save(tmp_path / "adapter")
    told = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert told["task_type"] == task
    here = _in_a_forest(model, typed)
    assert _far(here, before) > 0.02, "the adapter does nothing: it proves nothing"
    words = {"num_labels": 3} if task in ("SEQ_CLS", "TOKEN_CLS") else {}
    base = auto_class(task).from_pretrained(folder, **words).eval()
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert type(theirs).__name__.startswith("PeftModelFor")
    there = _rows(theirs, task, typed)
    assert _far(here, there) <= 1e-5
    with serving(model):
        assert _far(_rows(model, task, typed), there) <= 1e-5
    again = find_origin(tmp_path / "adapter").load_base(torch.float32)
    load_adapter(again, tmp_path / "adapter")
    assert _far(_in_a_forest(again, typed), here) <= 1e-5


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_writes_loads_here(kind: str, task: Any, tmp_path: Path) -> None:
    folder, typed = folder_of(tmp_path, "BERT"), _typed("BERT", kind, task)
    words = {"num_labels": 3} if task in ("SEQ_CLS", "TOKEN_CLS") else {}
    base = auto_class(task).from_pretrained(folder, **words).eval()
    _, keys, config = KINDS[kind]
    more = {"feedforward_modules": ["output.dense"]} if kind == "ia3" else {}
    more = {"target_modules": ["query", "value", "intermediate.dense"]} if kind in ("lora", "dora") else more
    more = {"target_modules": ["LayerNorm"]} if kind == "norm" else more
    asked = {key: list(value) if isinstance(value, tuple) else value for key, value in (keys | more).items()}
    theirs = peft.get_peft_model(base, getattr(peft, config)(task_type=task, **asked)).eval()
    shake([p for p in theirs.parameters() if p.requires_grad], 0.1)
    theirs.save_pretrained(tmp_path / "adapter")
    there = _rows(theirs, task, typed)
    model = find_origin(tmp_path / "adapter").load_base(torch.float32)
    load_adapter(model, tmp_path / "adapter")
    assert _far(_in_a_forest(model, typed), there) <= 1e-5
