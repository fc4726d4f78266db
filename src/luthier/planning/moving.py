# SPDX-License-Identifier: Apache-2.0
"""What a method moves of a model that has no numbers: told on the meta device, exactly and at once."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from luthier.core import registry
from luthier.core.errors import LuthierError
from luthier.engine.optim import moved_numbers, transform_bytes
from luthier.models.failures import UNKNOWN_WAYS
from luthier.planning.counts import by_size
from luthier.recipe import entry_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable

NOT_COUNTED = (*UNKNOWN_WAYS, AssertionError)
_STARTS = ("init_weights", "init_lora_weights")


class Moving(NamedTuple):
    """What moves, as `Counts` has it."""

    trained: dict[int, tuple[int, ...]]
    added: int
    moved: int | None = None
    beside_state: int = 0
    layerwise: bool = False


def on_meta(model: PreTrainedModel, method: dict[str, Any]) -> Moving | None:
    """What moves, told without numbers; None where the method must run the model."""
    entry = registry.get("methods", method["name"])
    copy = deepcopy(model)  # on the meta device: no numbers
    try:
        with torch.random.fork_rng(), torch.device("meta"):
            trainable: Trainable = entry.apply(copy, started(method))
    except (*NOT_COUNTED, LuthierError):
        return None
    return moving_of(trainable, stored_bytes(model))


def moving_of(trainable: Trainable, before: int) -> Moving:
    """What moves of a model that a method was applied to, which took so many bytes without it."""
    moving = list({id(p): p for p in trainable.parameters().values()}.values())
    return Moving(
        trained=by_size([(p.numel(), p.element_size()) for p in moving]),
        added=max(0, stored_bytes(trainable.model) - before),
        moved=moved_numbers(trainable) if trainable.transforms else None,
        beside_state=transform_bytes(trainable),
        layerwise=trainable.layerwise,
    )


def stored_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters, had each number a place."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def started(method: dict[str, Any]) -> Any:
    """The method's section with its plain start: principal parts of weights that are not there cannot be taken."""
    return entry_config("method", {key: value for key, value in method.items() if key not in _STARTS})
