# SPDX-License-Identifier: Apache-2.0
"""A PEFT folder -> a model with that adapter: Luthier's own folders and everyone else's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from luthier.core import registry
from luthier.core.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable

PREFIX = "base_model.model."


def load_adapter(model: PreTrainedModel, folder: Path) -> Trainable:
    """Put a PEFT adapter on its base model.

    Args:
        model: The plain base; changed in place.
        folder: Holds adapter_config.json and adapter_model.safetensors.

    Raises:
        ModelError: The folder is not a PEFT adapter, of a kind that no method here knows, or does not fit the model.
    """
    given = read_config(folder)
    kind = given.get("peft_type")
    for name in registry.entries("methods"):
        method = registry.get("methods", name)
        if getattr(method, "PEFT_TYPE", None) == kind:
            trainable: Trainable = method.apply(model, method.from_peft(given, str(folder)))
            fill_adapter(trainable, folder)
            return trainable
    raise ModelError(f"adapter {folder}", f"peft_type {kind!r}", "LORA", "this kind cannot be loaded here yet")


def read_config(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json."""
    try:
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"adapter {folder}", "no adapter_config.json", "a PEFT adapter folder") from None
    except ValueError as error:
        raise ModelError(f"adapter {folder}", f"adapter_config.json is not JSON ({error})") from None
    return config


@torch.no_grad()
def fill_adapter(trainable: Trainable, folder: Path) -> None:
    """Copy an adapter's tensors into parameters that are already there.

    Raises:
        ModelError: Weights are missing, left over, or of another shape: an adapter never loads in part.
    """
    path = folder / "adapter_model.safetensors"
    if not path.exists():
        raise ModelError(f"adapter {folder}", "no adapter_model.safetensors", "safetensors (never a pickle)")
    try:
        saved = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise ModelError(f"adapter {path}", f"cannot be read ({error})", "a whole safetensors file") from None
    parameters = trainable.parameters()
    if saved.keys() != parameters.keys():
        odd = sorted(saved.keys() ^ parameters.keys())
        raise ModelError(f"adapter {folder}", f"{len(odd)} weights do not fit the model ({odd[0]} ...)", "the base it was trained on")
    for name, parameter in parameters.items():
        if parameter.shape != saved[name].shape:
            shapes = f"{tuple(saved[name].shape)} for {tuple(parameter.shape)}"
            raise ModelError(f"adapter {folder}", f"{name} has shape {shapes}", "the base it was trained on")
        parameter.copy_(saved[name])
