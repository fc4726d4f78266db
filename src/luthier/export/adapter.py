# SPDX-License-Identifier: Apache-2.0
"""A PEFT folder -> a model with that adapter: Luthier's own folders and everyone else's.

An adapter is loaded whole or not at all: a missing tensor, a left-over one, another shape or a setting that would
change what it computes is an error that names it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from luthier.core import registry
from luthier.core.errors import ModelError
from luthier.models.tasks import head_keys, task_of
from luthier.models.values import HEADS, value_head
from luthier.models.virtual import EMBEDDINGS, ENCODER_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import ModuleType

    from torch import nn
    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable

PREFIX = "base_model.model."
SHORT_PREFIX = "base_model."  # of what trains beside virtual tokens: nothing wraps the model inside PEFT's there
# With `bias: all` PEFT writes the biases of whole modules three times; the first is the one that counts.
_DOUBLES = re.compile(r"\.(original_module|modules_to_save)\.")


def load_adapter(model: PreTrainedModel, folder: Path) -> Trainable:
    """Put a PEFT adapter on its base model.

    Args:
        model: The plain base; changed in place.
        folder: Holds adapter_config.json and adapter_model.safetensors.

    Raises:
        ModelError: The folder is not a PEFT adapter, of a kind that no method here knows, or does not fit the model.
    """
    given, where = read_config(folder), f"adapter {folder}"
    if given.get("task_type") == "SEQ_CLS" and value_head(model) is None:
        received = f"task_type SEQ_CLS, a reward model's, for {type(model).__name__}"
        raise ModelError(where, received, "an adapter of a language model", "choose another adapter")
    trainable: Trainable = method_of(given, folder).load_peft(model, given, where)
    _fill(trainable, folder)
    drawn = head_keys(model) if task_of(model.config) == "CAUSAL_LM" else set()
    if lacking := sorted(drawn - trainable.parameters().keys()):
        received = f"no weights for the head of values ({lacking[0]}), and none in its base"
        raise ModelError(where, received, "an adapter that was saved with its head", "name it in modules_to_save")
    return trainable


def head_rows(folder: Path) -> int | None:
    """How many values the head in an adapter gives (`num_labels`); None where it holds none."""
    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            known = {f"{prefix}{head}.weight" for head in HEADS for prefix in (PREFIX, SHORT_PREFIX)}
            heads = [name for name in file.keys() if name in known]  # noqa: SIM118 - not a dict
            return int(file.get_slice(heads[0]).get_shape()[0]) if heads else None
    except (OSError, SafetensorError):
        return None  # whoever reads the weights says what is wrong with them


def read_config(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json.

    Raises:
        ModelError: There is none, or it is no JSON object.
    """
    where = f"adapter {folder}"
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(where, "no adapter_config.json", "a PEFT adapter folder", "check the path") from None
    except (OSError, ValueError) as error:
        fix = "download the folder again"
        raise ModelError(where, f"adapter_config.json cannot be read ({error})", "a JSON object", fix) from None
    if not isinstance(config, dict):
        raise ModelError(where, f"adapter_config.json holds {type(config).__name__}", "a JSON object")
    return config


def method_of(given: dict[str, Any], folder: Path) -> ModuleType:
    """The method whose adapters have this `peft_type`.

    Raises:
        ModelError: None has.
    """
    kinds = {}
    for name in registry.entries("methods"):
        method = registry.get("methods", name)
        if kind := getattr(method, "PEFT_TYPE", None):
            kinds[kind] = method
    kind = given.get("peft_type")
    if kind not in kinds:
        fix = "load it with PEFT, merge it there (merge_and_unload) and give the merged model"
        raise ModelError(f"adapter {folder}", f"peft_type {kind!r}", ", ".join(sorted(kinds)), fix)
    return kinds[kind]


def fill_adapter(trainable: Trainable, folder: Path) -> None:
    """Copy an adapter's tensors into a method that a recipe applied.

    Raises:
        RecipeError: The recipe's settings make another function of the same tensors (r, lora_alpha, use_rslora ...).
        ModelError: Weights are missing, left over, or of another shape.
    """
    given = read_config(folder)
    check = getattr(method_of(given, folder), "check_agrees", None)
    if check is not None:
        check(trainable.model, given, str(folder))
    _fill(trainable, folder)


@torch.no_grad()
def _fill(trainable: Trainable, folder: Path) -> None:
    where, parameters = f"adapter {folder}", trainable.parameters()
    saved = _with_encoder(read_tensors(folder), folder, parameters)
    for name, parameter in parameters.items():
        if name not in saved:
            fix = "give the base and the settings it was trained with"
            if name in head_keys(trainable.model):
                fix = "it is a language model's: merge it first (`luthier merge`), and name the merged model"
            raise ModelError(where, f"no weights for {name}", "a tensor for each adapted layer", fix)
        _check_shape(where, name, saved[name], parameter)
    left = {name: tensor for name, tensor in saved.items() if name not in parameters and not _DOUBLES.search(name)}
    for name, parameter in parameters.items():
        parameter.copy_(saved[name])
    state = trainable.model.state_dict()  # holds tied weights by each of their names
    for name, tensor in left.items():
        _settle(trainable.model, state, where, name, tensor)


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read adapter_model.safetensors, by the names in the model.

    Raises:
        ModelError: It is missing or broken.
    """
    path = folder / "adapter_model.safetensors"
    if not path.exists():
        pickle = "adapter_model.bin, a pickle: " if (folder / "adapter_model.bin").exists() else ""
        fix = "save it from PEFT with safe_serialization" if pickle else "download the whole folder"
        raise ModelError(f"adapter {folder}", f"{pickle}no adapter_model.safetensors", "safetensors", fix)
    try:
        found = load_file(path)
        return {name.removeprefix(PREFIX).removeprefix(SHORT_PREFIX): tensor for name, tensor in found.items()}
    except SafetensorError as error:
        raise ModelError(f"adapter {path}", f"cannot be read ({error})", "a whole file", "download it again") from None


def _with_encoder(
    saved: dict[str, torch.Tensor], folder: Path, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The encoder of virtual tokens in the place of the vectors that it gave, where the encoder is what trains."""
    path = folder / ENCODER_FILE
    if EMBEDDINGS not in saved or EMBEDDINGS in parameters or not path.exists():
        return saved
    try:
        return {name: tensor for name, tensor in saved.items() if name != EMBEDDINGS} | load_file(path)
    except SafetensorError as error:
        raise ModelError(f"adapter {path}", f"cannot be read ({error})", "a whole file", "download it again") from None


def _settle(model: nn.Module, state: dict[str, torch.Tensor], where: str, name: str, tensor: torch.Tensor) -> None:
    """Place what is no trained parameter: base weights that PEFT saved along, or a second name of a tied matrix."""
    if name in state:
        here = state[name]
        _check_shape(where, name, tensor, here)
        # PEFT writes an adapted embedding's base too, rounded to the type it was loaded in; that is no change.
        if not torch.equal(here.to(tensor.dtype), tensor.to(here.device)):
            here.copy_(tensor)
        return
    owner, _, leaf = name.removesuffix(".weight").rpartition(".")
    try:
        view = getattr(model.get_submodule(owner), leaf)
    except AttributeError:
        received = f"{name} has no place in the model"
        raise ModelError(where, received, "the base it was trained on", "give that base") from None
    _check_shape(where, name, tensor, view)
    if not torch.allclose(view, tensor.to(view)):
        received = f"{name} differs from the embedding's update, with which it is tied"
        raise ModelError(where, received, "one update for both (ensure_weight_tying)", "train it again")


def _check_shape(where: str, name: str, tensor: torch.Tensor, here: torch.Tensor) -> None:
    if tensor.shape != here.shape:
        received = f"{name} has shape {tuple(tensor.shape)}, the model {tuple(here.shape)}"
        fix = "give the base it was trained on, with its vocabulary (resize_token_embeddings) if tokens were added"
        raise ModelError(where, received, "the base it was trained on", fix)
