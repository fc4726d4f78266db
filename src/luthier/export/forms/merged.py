# SPDX-License-Identifier: Apache-2.0
"""A plain transformers folder: the adapter folded into its base, weights as safetensors in files of a given size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from luthier.export.merge import Dtype, Exported, merge_run

if TYPE_CHECKING:
    from luthier.export.trained import Request


class Config(BaseModel):
    """What the form can be told."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    dtype: Dtype = "auto"
    """Numbers of the written weights; `auto`: the base's."""
    max_shard_size: Annotated[str, Field(pattern=r"^[0-9]+ ?[KMGT]?i?B$")] = "5GB"
    """Largest file of weights, as transformers writes it: `500MB`, `5GB`."""


def write(request: Request, config: Config) -> Exported:
    """Write the folder, its proof and its card; see :func:`luthier.export.merge.merge_run`."""
    return merge_run(
        request.source,
        request.output,
        base=request.base,
        dtype=config.dtype,
        max_shard_size=config.max_shard_size,
        texts=request.texts,
        bound=request.bound,
        overwrite=request.overwrite,
        say=request.say,
    )
