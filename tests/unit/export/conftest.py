# SPDX-License-Identifier: Apache-2.0
"""Bases on disk and adapters for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny
from transformers import AutoModelForCausalLM

from luthier.methods import lora
from luthier.recipe import load_recipe


class Bench:
    """Makes folders below a temporary one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def base(self, family: str = "llama", dtype: torch.dtype = torch.float32) -> Path:
        """A family's model as a folder, without a tokenizer."""
        place = self.folder / f"{family}-{str(dtype)[6:]}"
        if not place.exists():
            tiny(family).to(dtype).save_pretrained(place)
        return place

    def adapter(self, base: Path, name: str = "adapter", *, size: float = 0.1, **keys) -> Path:
        """A shaken LoRA adapter of a base."""
        model = AutoModelForCausalLM.from_pretrained(base)
        trainable = lora.apply(model, lora.Config(**({"r": 4, "lora_alpha": 8.0} | keys)))
        with torch.no_grad():
            for parameter in trainable.parameters().values():
                parameter.add_(size * torch.randn_like(parameter))
        place = self.folder / name
        place.mkdir(parents=True)
        trainable.save(place)
        return place

    def run(self, base: Path, rows: Path, **data) -> Path:
        """A finished LoRA run's folder, as training leaves it."""
        place = self.folder / "run"
        place.mkdir()
        tree = {"model": {"model_name_or_path": str(base)}, "data": {"train": str(rows), **data}}
        (place / "recipe.yaml").write_text(load_recipe(tree | {"method": "lora"}).to_yaml())
        adapter = self.adapter(base, "run/adapter")
        for file in base.iterdir():
            if "token" in file.name or "template" in file.name:
                shutil.copy(file, adapter)
        return place


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)
