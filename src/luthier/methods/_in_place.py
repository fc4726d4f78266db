# SPDX-License-Identifier: Apache-2.0
"""Methods that overwrite the base's own numbers: what trains, and a base that is there until the first step only."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from luthier.core.errors import LuthierError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.models.quantized import refuse_quantized
from luthier.models.save import save_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn
    from transformers import PreTrainedModel


def train_in_place(model: PreTrainedModel, parameters: Mapping[str, nn.Parameter], method: str) -> Trainable:
    """Let these parameters train where they stand, and no other.

    Args:
        model: Changed in place.
        parameters: By name; one that has two names stands there once.
        method: The method's key, for errors.

    Returns:
        Its result is a whole model. `disabled()` raises LuthierError once a step was taken.

    Raises:
        RecipeError: The model is quantised.
    """
    refuse_quantized(model, method)
    trained = {id(parameter) for parameter in parameters.values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    written = {name: parameter._version for name, parameter in parameters.items()}

    @contextmanager
    def disabled() -> Iterator[None]:
        moved = sum(parameter._version != written[name] for name, parameter in parameters.items())
        if moved:
            raise LuthierError(
                f"method {method}",
                f"the base is asked for, but {moved} parameters have been overwritten by training",
                "a method that keeps its base (lora), or the base itself",
                "load the base again as a second model",
            )
        yield

    return Trainable(
        model=model,
        groups=(ParameterGroup(parameters=parameters),),
        folder="model",
        save=lambda folder: save_model(model, folder),
        merge=lambda: model,
        disabled=disabled,
    )
