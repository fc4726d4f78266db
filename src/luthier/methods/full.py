# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning: every parameter of the model trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from luthier.core.errors import RecipeError
from luthier.methods._in_place import train_in_place
from luthier.models.heads import unread

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable


class Config(BaseModel):
    """What full fine-tuning can be told."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    freeze: tuple[str, ...] = ()
    """Parameters whose name contains one of these words stay as they are."""


def apply(model: PreTrainedModel, config: Config) -> Trainable:
    """Let every parameter train that what the model gives depends on.

    Args:
        model: Loaded by :func:`luthier.models.load_model`; changed in place.
        config: The recipe's section.

    Returns:
        Its `disabled()` raises LuthierError once a step was taken: the base's numbers are gone then.

    Raises:
        RecipeError: A word in `freeze` matches no parameter, or nothing is left to train.
    """
    left_out = tuple(f"{name}." for name in unread(model))
    # A tied parameter appears once.
    named = {name: p for name, p in model.named_parameters() if not (left_out and name.startswith(left_out))}
    for word in config.freeze:
        if not any(word in name for name in named):
            raise RecipeError("method.freeze", f"{word!r} matches no parameter", fix="run `luthier inspect MODEL`")
    parameters = {name: p for name, p in named.items() if not any(word in name for word in config.freeze)}
    if not parameters:
        raise RecipeError("method.freeze", "every parameter is frozen", fix="leave something to train")
    return train_in_place(model, parameters, "full")
