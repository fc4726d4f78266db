# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning: every parameter of the model trains."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from luthier.core.errors import RecipeError
from luthier.core.trainable import ParameterGroup, Trainable

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


class Config(BaseModel):
    """What full fine-tuning can be told."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    freeze: tuple[str, ...] = ()
    """Parameters whose name contains one of these words stay as they are."""


def apply(model: PreTrainedModel, config: Config) -> Trainable:
    """Let every parameter train.

    Args:
        model: Loaded by :func:`luthier.models.load_model`; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A word in `freeze` matches no parameter, or nothing is left to train.
    """
    named = dict(model.named_parameters())  # a tied parameter appears once
    for word in config.freeze:
        if not any(word in name for name in named):
            raise RecipeError("method.freeze", f"{word!r} matches no parameter", fix="run `luthier inspect MODEL`")
    parameters = {name: p for name, p in named.items() if not any(word in name for word in config.freeze)}
    if not parameters:
        raise RecipeError("method.freeze", "every parameter is frozen", fix="leave something to train")
    for name, parameter in named.items():
        parameter.requires_grad_(name in parameters)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)

    return Trainable(
        model=model,
        groups=(ParameterGroup(parameters=parameters),),
        folder="model",
        save=save,
        merge=lambda: model,
        disabled=lambda: nullcontext(),  # the old weights are gone; a reference needs a copy of its own
    )
