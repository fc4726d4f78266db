# SPDX-License-Identifier: Apache-2.0
"""The folder of an adapter that PEFT has no type for: luthier_adapter.json beside adapter_model.safetensors.

    {"method": "bitfit", "config": {...}, "task_type": "CAUSAL_LM", "base_model_name_or_path": "/models/base"}

The configuration is the recipe's section, so loading is what training did: apply the method, then fill in the tensors.
No file is called adapter_config.json: PEFT, transformers and servers would take the folder for one of PEFT's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from luthier.methods._peft import describe, write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from pydantic import BaseModel
    from torch import nn


def write_own(
    folder: Path, model: nn.Module, method: str, config: BaseModel, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Write luthier_adapter.json and adapter_model.safetensors.

    Args:
        folder: Exists and is empty.
        model: Of it, the task and the name of its base are told.
        method: The method's key.
        config: As it was applied.
        tensors: By their names in the model.
    """
    write_tensors(folder, tensors)
    told = {"method": method, "config": config.model_dump(mode="json"), **describe(model)}
    del told["inference_mode"]
    (folder / "luthier_adapter.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
