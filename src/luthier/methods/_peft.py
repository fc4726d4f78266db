# SPDX-License-Identifier: Apache-2.0
"""PEFT's folder: adapter_config.json and adapter_model.safetensors, with PEFT's key names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from transformers import PreTrainedModel

    from luthier.methods._lowrank import LoraLayer

PREFIX = "base_model.model."


def write_lora(
    folder: Path, model: PreTrainedModel, config: Any, layers: dict[str, LoraLayer], parameters: dict[str, nn.Parameter]
) -> None:
    """Write a LoRA adapter as PEFT does.

    Args:
        folder: Exists and is empty.
        model: For its name and layout.
        config: :class:`luthier.methods.lora.Config`.
        layers: The rewired layers by name.
        parameters: Everything that trained, by its name in the model.
    """
    tensors = {PREFIX + name: p.detach().cpu().contiguous().clone() for name, p in parameters.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(lora_config(model, config, layers), indent=2) + "\n")


def lora_config(model: PreTrainedModel, config: Any, layers: dict[str, LoraLayer]) -> dict[str, Any]:
    """The adapter_config.json of a LoRA adapter."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.config._name_or_path,
        "r": config.r,
        "lora_alpha": int(config.lora_alpha) if float(config.lora_alpha).is_integer() else config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "target_modules": sorted(layers),
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
        "bias": config.bias,
        "modules_to_save": list(config.modules_to_save) or None,
        "fan_in_fan_out": any(getattr(layer, "transposed", False) for layer in layers.values()),
        "inference_mode": True,
        "init_lora_weights": True,
    }
