# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning: every parameter of the model trains."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from luthier.core.errors import LuthierError, RecipeError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.models.save import save_model

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    Returns:
        Its `disabled()` raises LuthierError once a step was taken: the base's numbers are gone then.

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

    written = {name: parameter._version for name, parameter in parameters.items()}

    @contextmanager
    def disabled() -> Iterator[None]:
        moved = sum(parameter._version != written[name] for name, parameter in parameters.items())
        if moved:
            raise LuthierError(
                "method full",
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
