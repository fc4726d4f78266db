# SPDX-License-Identifier: Apache-2.0
"""Every method on encoders, for each task: it trains, is switched off, saved, loaded back, and merged where it can."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.encoders import TASKS, encoder, folder_of, texts
from tests.reward import shake
from transformers import AutoConfig

from luthier.core import registry
from luthier.core.errors import ModelError, RecipeError, UserError
from luthier.core.tasks import Labels
from luthier.export.adapter import load_adapter
from luthier.export.merge import merge_run
from luthier.export.origin import find_origin
from luthier.models import outputs
from luthier.models.heads import head_modules
from luthier.models.load import load_model
from luthier.models.tasks import auto_class
from luthier.recipe import Model

KEYS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4},
    "adapter": {"placement": "houlsby", "reduction_factor": 4.0},
    "prompt": {"num_virtual_tokens": 3},
    "ptuning": {"num_virtual_tokens": 3},
    "prefix": {"num_virtual_tokens": 3},
    "freeze": {"freeze_trainable_layers": 1},
}
MERGES = ("lora", "lora_fa", "loha", "lokr", "vera", "ia3", "norm", "bitfit")
LABELS = Labels(names=("red", "green", "blue"))
FOREST = texts((9, 5, 12, 3))
FAMILIES = ("BERT", "RoBERTa", "DistilBERT", "ALBERT", "ModernBERT")


def _make(folder: Path, task: Any) -> Any:
    return encoder(folder, task, labels=LABELS) if task in ("SEQ_CLS", "TOKEN_CLS") else encoder(folder, task)


def _apply(model: Any, method: str) -> Any:
    module = registry.get("methods", method)
    torch.manual_seed(0)
    return module.apply(model, module.Config(**KEYS.get(method, {})))


@torch.no_grad()
def _asked(model: Any) -> torch.Tensor:
    return outputs(model.eval(), FOREST)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", registry.entries("methods"))
@pytest.mark.parametrize("task", TASKS)
def test_a_method_keeps_its_contract(task: Any, method: str, name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, name)
    model = _make(folder, task)
    before = _asked(model)
    try:
        trainable = _apply(model, method)
    except (ModelError, RecipeError) as refused:
        _expected(refused, method, name)
        return
    heads = {f"{n}.{leaf}" for n, module in head_modules(model).items() for leaf, _ in module.named_parameters()}
    assert heads <= trainable.parameters().keys(), "a head trains whole with every method"
    if trainable.starts_as_base:
        assert (_asked(model) - before).abs().max() <= 1e-5
    wanted = torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
    loss = (outputs(model.train(), FOREST).float() - wanted).square().mean()
    loss.backward()
    found = {key: p.grad for key, p in trainable.parameters().items()}
    assert [key for key, grad in found.items() if grad is None] == [], "something trains that nothing depends on"
    base = None if trainable.folder == "model" else copy.deepcopy(before)
    shake(trainable.parameters().values(), 0.05)
    here = _asked(model)
    assert (here - before).abs().max() > 1e-3
    if base is not None:
        with trainable.disabled():
            assert (_asked(model) - before).abs().max() <= 1e-5
        assert (_asked(model) - here).abs().max() <= 1e-6
    (tmp_path / "out").mkdir()
    trainable.save(tmp_path / "out")
    if trainable.folder == "model":
        again: Any = load_model(Model(model_name_or_path=str(tmp_path / "out")), torch.float32, task=None).eval()
        assert type(again) is type(model)
        if task in ("SEQ_CLS", "TOKEN_CLS"):
            assert AutoConfig.from_pretrained(tmp_path / "out").id2label == dict(enumerate(LABELS.names))
        _, report = auto_class(task).from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not report["missing_keys"], "transformers would draw these"
    else:
        again = find_origin(tmp_path / "out", str(folder)).load_base(torch.float32)
        load_adapter(again, tmp_path / "out")
    assert (_asked(again) - here).abs().max() <= 1e-5
    _merged(method, tmp_path, folder, trainable, task, here)


def _expected(refused: Exception, method: str, name: str) -> None:
    """What a method may say no to, in words."""
    told = str(refused)
    if method == "prefix":
        assert name in ("DistilBERT", "ALBERT", "ModernBERT"), told
        assert "keys and values" in told
    elif method == "llama_adapter":
        assert "keys and values from elsewhere" in told
    elif method == "bitfit":
        assert name == "ModernBERT", told
        assert "add_biases" in told
    else:
        raise refused


def _merged(method: str, place: Path, folder: Path, trainable: Any, task: Any, here: torch.Tensor) -> None:
    if trainable.folder == "model":
        return
    if method not in MERGES:
        with pytest.raises(UserError):
            trainable.merge()
        return
    done = merge_run(place / "out", place / "merged", base=str(folder))
    assert done.proof.holds
    assert done.proof.relative_difference <= 1e-5
    plain = load_model(Model(model_name_or_path=str(place / "merged")), torch.float32, task=task).eval()
    assert (_asked(plain) - here).abs().max() <= 1e-4
