# SPDX-License-Identifier: Apache-2.0
"""Layer scale: one trained vector multiplies what each decoder layer gives; everything else is frozen.

    h = (1 + gain s) * layer(h)        s trains and starts at zero

An example of a method that does not ship with Luthier, whole in one file:

    LUTHIER_PLUGINS=examples/plugins luthier train recipes/sft-lora.yaml data.train=rows.jsonl method=layer_scale

Reference:
    Touvron et al., Going Deeper with Image Transformers, arXiv 2103.17239, section 2 (there inside each branch).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from luthier.core.errors import UserError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.methods._beside import copy_whole, find_whole, swapped_back, whole_parameters, whole_tensors
from luthier.methods._own import write_own
from luthier.models.layers import find_layers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALONE = "changes whole layers"  # why its runs share no base; one that may has SHARES_BASE = True


class Config(BaseModel):
    """What layer scale can be told."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    gain: Annotated[float, Field(gt=0.0)] = 10.0
    """What a trained number counts: a larger gain is a larger learning rate."""
    modules_to_save: tuple[str, ...] = ()
    """Name endings of modules that train whole, saved with the scales; a head of values always is one."""


def apply(model: nn.Module, config: Config) -> Trainable:
    """Freeze the model, and put a trained scale behind each decoder layer.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, or any module; changed in place.
        config: The recipe's section.

    Returns:
        Its `merge()` raises UserError: no weight of the model can take a scale of the whole residual stream.

    Raises:
        RecipeError: The model has no decoder layers, or a word names no module. The model is then as it was.

    Reference:
        Touvron et al., arXiv 2103.17239.
    """
    whole = find_whole(model, config.modules_to_save)
    layers, count = find_layers(model, "method.name")
    model.requires_grad_(False)
    swaps = copy_whole(model, whole)
    hidden = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator, union-attr]
    parameters = whole_parameters(model, whole)
    on = [True]

    def scaled(layer: nn.Module, _: Any, given: Any) -> Any:
        if not on[0]:
            return given
        first = given[0] if isinstance(given, tuple) else given
        out = first * (1 + config.gain * layer.layer_scale).to(first.dtype)
        return (out, *given[1:]) if isinstance(given, tuple) else out

    for place in range(count):
        layer: nn.Module = model.get_submodule(f"{layers}.{place}")
        device = next(layer.parameters()).device
        layer.layer_scale = nn.Parameter(torch.zeros(hidden, device=device))
        layer.register_forward_hook(scaled)
        parameters[f"{layers}.{place}.layer_scale"] = layer.layer_scale
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        write_own(folder, model, "layer_scale", config, whole_tensors(model, whole) | parameters)

    def merge() -> nn.Module:
        raise UserError(
            "merge",
            "a scale of what a whole layer gives",
            "updates that a weight of the model can take",
            "keep the adapter beside its base: `luthier generate` and `luthier evaluate` load it so",
        )

    @contextmanager
    def disabled() -> Iterator[None]:
        on[0] = False
        try:
            with swapped_back(swaps):
                yield
        finally:
            on[0] = True

    return Trainable(
        model=model,
        groups=(ParameterGroup(parameters=parameters),),
        folder="adapter",
        save=save,
        merge=merge,
        disabled=disabled,
    )
