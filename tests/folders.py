# SPDX-License-Identifier: Apache-2.0
"""PEFT's folders in tests of parity: what PEFT writes is read here, computes the same, and is written again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from luthier.export.adapter import load_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from luthier.core.trainable import Trainable

TOLERANCE = 1e-5
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 58, 9, 7, 0, 31, 12]])


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """What a model says of the ids, without dropout, [1, 16, V]."""
    found: torch.Tensor = model.eval()(input_ids=IDS, use_cache=False).logits
    return found


def read_back(made: Any, model: Any, folder: Path, without: tuple[str, ...] = ()) -> Trainable:
    """Read PEFT's folder here and write it again.

    Args:
        made: PEFT's model.
        model: Its plain base.
        folder: Empty.
        without: Endings of tensors that PEFT writes and that are the base's own.
    """
    made.save_pretrained(folder)
    trainable = load_adapter(model, folder)
    assert (logits(model) - logits(made)).abs().max() <= TOLERANCE
    (folder / "again").mkdir()
    trainable.save(folder / "again")
    first, second = (load_file(place / "adapter_model.safetensors") for place in (folder, folder / "again"))
    assert {key for key in first if not key.endswith(without)} == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in second)
    return trainable


def shapes(trainable: Trainable) -> dict[str, torch.Size]:
    """Of everything that trains."""
    return {name: parameter.shape for name, parameter in trainable.parameters().items()}
