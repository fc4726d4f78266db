# SPDX-License-Identifier: Apache-2.0
"""An adapter folder -> a model with that adapter: PEFT's layout from anywhere, Luthier's own where PEFT has no type.

An adapter is loaded whole or not at all: a missing tensor, a left-over one, another shape or a setting that would
change what it computes is an error that names it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, get_args

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from luthier.core import registry
from luthier.core.errors import ModelError, RecipeError
from luthier.core.tasks import Task
from luthier.models.heads import HEADS, drawn_modules, head_keys, task_of_model
from luthier.models.virtual import EMBEDDINGS, ENCODER_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import ModuleType

    from torch import nn
    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable

    Unfold = Callable[[nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]]

PREFIX = "base_model.model."
TASKS = get_args(Task)
CONFIGS = ("adapter_config.json", "luthier_adapter.json")  # PEFT's, and that of methods which PEFT does not have
SHORT_PREFIX = "base_model."  # of what trains beside virtual tokens: nothing wraps the model inside PEFT's there
# With `bias: all` PEFT writes the biases of whole modules three times; the first is the one that counts.
_DOUBLES = re.compile(r"\.(original_module|modules_to_save)\.")


def load_adapter(model: PreTrainedModel, folder: Path) -> Trainable:
    """Put an adapter on its base model.

    Args:
        model: The plain base; changed in place.
        folder: Holds adapter_config.json (or luthier_adapter.json) and adapter_model.safetensors.

    Raises:
        ModelError: The folder is not an adapter, of a kind that no method here knows, or does not fit the model.
    """
    given, where = read_config(folder), f"adapter {folder}"
    told, task = given.get("task_type"), task_of_model(model)
    if told in TASKS and told != task:
        received = f"task_type {told} for {type(model).__name__}, a model for {task}"
        raise ModelError(where, received, f"an adapter for {task}", "choose another adapter")
    method = method_of(given, folder)
    own = "peft_type" not in given
    trainable: Trainable = _apply_own(method, model, given, where) if own else method.load_peft(model, given, where)
    _fill(trainable, folder, getattr(method, "unfold", None))
    drawn = tuple(f"{name}." for name in drawn_modules(model))
    lacking = sorted(key for key in head_keys(model) - trainable.parameters().keys() if key.startswith(drawn))
    if drawn and lacking:
        received = f"no weights for the head of values ({lacking[0]}), and none in its base"
        raise ModelError(where, received, "an adapter that was saved with its head", "name it in modules_to_save")
    return trainable


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return any((folder / name).is_file() for name in CONFIGS)


def _apply_own(method: ModuleType, model: nn.Module, given: dict[str, Any], where: str) -> Trainable:
    """Do what the recipe did that the folder comes from."""
    try:
        config = method.Config.model_validate_json(
            json.dumps(given.get("config"))
        )  # as in recipes: a list may be a tuple
        return method.apply(model, config)
    except (ValidationError, RecipeError) as error:
        received = f"settings that do not fit ({str(error).splitlines()[0]})"
        raise ModelError(where, received, "the base it was trained on", "give that base") from None


def head_in(folder: Path) -> tuple[str, int] | None:
    """The last linear of the head in an adapter, and how many values it gives (`num_labels`); None of one without."""
    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            ends = {f"{head}{last}.weight": head for head in HEADS for last in ("", ".out_proj")}
            known = {prefix + end: head for end, head in ends.items() for prefix in (PREFIX, SHORT_PREFIX)}
            heads = [name for name in file.keys() if name in known]  # noqa: SIM118 - not a dict
            return (known[heads[0]], int(file.get_slice(heads[0]).get_shape()[0])) if heads else None
    except (OSError, SafetensorError):
        return None  # whoever reads the weights says what is wrong with them


def read_config(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json, or luthier_adapter.json.

    Raises:
        ModelError: There is none, or it is no JSON object.
    """
    where = f"adapter {folder}"
    name = next((name for name in CONFIGS if (folder / name).exists()), None)
    if name is None:
        raise ModelError(where, f"no {' or '.join(CONFIGS)}", "an adapter folder", "check the path")
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "download the folder again"
        raise ModelError(where, f"{name} cannot be read ({error})", "a JSON object", fix) from None
    if not isinstance(config, dict):
        raise ModelError(where, f"{name} holds {type(config).__name__}", "a JSON object")
    return config


def method_of(given: dict[str, Any], folder: Path) -> ModuleType:
    """The method whose adapters have this `peft_type`, or which luthier_adapter.json names.

    Raises:
        ModelError: None has.
    """
    if "peft_type" not in given and "method" in given:
        known = registry.entries("methods")
        if given["method"] not in known:
            fix = "install the version of Luthier that wrote it"
            raise ModelError(f"adapter {folder}", f"method {given['method']!r}", ", ".join(known), fix)
        return registry.get("methods", given["method"])
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
    method = method_of(given, folder)
    if hasattr(method, "check_agrees"):
        method.check_agrees(trainable.model, given, str(folder))
    _fill(trainable, folder, getattr(method, "unfold", None))


@torch.no_grad()
def _fill(trainable: Trainable, folder: Path, unfold: Unfold | None = None) -> None:
    where, parameters = f"adapter {folder}", trainable.parameters()
    saved = _with_encoder(read_tensors(folder), folder, parameters)
    saved = saved if unfold is None else unfold(trainable.model, saved)
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
