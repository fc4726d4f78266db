# SPDX-License-Identifier: Apache-2.0
"""A plain transformers folder: an adapter folded into its base, or a whole model, in files of a given size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.errors import UserError
from luthier.export.card import write_card
from luthier.export.folder import new_folder
from luthier.export.held_out import load_words
from luthier.export.merge import (
    Dtype,
    Exported,
    comparison_of,
    copy_purpose,
    load_base,
    merge_run,
    read_again,
    short,
    write_model,
)
from luthier.export.origin import find_result
from luthier.export.trained import measure_start
from luthier.models.heads import task_of_model
from luthier.models.quantized import is_quantized

if TYPE_CHECKING:
    from luthier.export.origin import Origin
    from luthier.export.trained import Request


class Config(BaseModel):
    """What the form can be told."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    dtype: Dtype = "auto"
    """Numbers of the written weights; `auto`: the base's."""
    max_shard_size: Annotated[str, Field(pattern=r"^[0-9]+ ?[KMGT]?i?B$")] = "5GB"
    """Largest file of weights, as transformers writes it: `500MB`, `5GB`."""


def write(request: Request, config: Config) -> Exported:
    """Write the folder, its proof and its card: of an adapter as :func:`luthier.export.merge.merge_run` does.

    Raises:
        UserError: There is neither an adapter nor a whole model, or one in few bits.
        RunFailed: Read again, the model does not do what it did; no folder is left.
    """
    origin = find_result(request.source, request.base)
    if origin.whole:
        return _write_whole(request, config, origin)
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


def _write_whole(request: Request, config: Config, origin: Origin) -> Exported:
    """Nothing is to be merged: the same weights in other numbers or smaller files, with proof and card."""
    final = request.place(origin, "merged")
    with new_folder(final, overwrite=request.overwrite, inputs=origin.inputs) as folder:
        tokenizer = load_words(origin)
        model, written = load_base(origin, config.dtype)
        if is_quantized(model):
            allowed = "weights of 16 or 32 bits"
            raise UserError("--to merged", f"{request.source}, in few bits", allowed, "use the folder as it is")
        task, computed, device = task_of_model(model), model.dtype, model.device
        comparison: Any = comparison_of(model, origin, tokenizer, request.texts, request.say)
        comparison.remember(model)
        measure_start(origin, comparison, computed)
        write_model(model, written, tokenizer, folder, config.max_shard_size)
        library = copy_purpose(origin, folder, model)
        del model
        again = read_again(folder, written, task).to(device, computed)
        proof = comparison.prove(again, dtype=written, bound=request.bound)
        proof.demand(str(final))
        text = json.dumps({"source": str(origin.adapter.resolve())} | proof.to_json(), indent=2)
        (folder / "merge_proof.json").write_text(text + "\n", encoding="utf-8")
        write_card(folder, origin, f"a whole model in {short(written)}", proof, library)
    return Exported(folder=final, proof=proof)
