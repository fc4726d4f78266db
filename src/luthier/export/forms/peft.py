# SPDX-License-Identifier: Apache-2.0
"""The adapter as PEFT's folder, as it is or with rsLoRA folded into a plain lora_alpha, beside its tokenizer."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from luthier.core.errors import UserError
from luthier.export.adapter import load_adapter
from luthier.export.card import write_card
from luthier.export.folder import new_folder
from luthier.export.held_out import load_words
from luthier.export.merge import Exported, comparison_of, load_base
from luthier.export.origin import find_origin
from luthier.export.portable import make_portable

if TYPE_CHECKING:
    from luthier.export.trained import Request


class Config(BaseModel):
    """What the form can be told."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    portable: bool = False
    """Fold rsLoRA into a plain `lora_alpha`, for servers that ignore `use_rslora`."""


def write(request: Request, config: Config) -> Exported:
    """Write the folder, its proof and its card.

    Raises:
        UserError: There is no adapter, PEFT does not have its kind, or nothing is to be folded.
        RunFailed: Read again, the adapter does not do what it did; no folder is left.
    """
    words = {"base": request.base, "texts": request.texts, "bound": request.bound, "overwrite": request.overwrite}
    if config.portable:
        return make_portable(request.source, request.output, **words, say=request.say)  # type: ignore[arg-type]
    origin = find_origin(request.source, request.base)
    if "peft_type" not in origin.config:
        received = f"an adapter of method {origin.config.get('method')!r}, which PEFT does not have"
        raise UserError("--to peft", received, "an adapter with peft_type", "use --to merged")
    final = request.place(origin, "peft")
    with new_folder(final, overwrite=request.overwrite, inputs=origin.inputs) as folder:
        model, _ = load_base(origin, "float32")
        trainable = load_adapter(model, origin.adapter)
        comparison = comparison_of(model, origin, load_words(origin), request.texts, request.say)
        comparison.remember(model)
        with trainable.disabled():
            comparison.measure_base(model)
        for file in sorted(origin.adapter.iterdir()):
            if file.is_file() and file.suffix != ".bin":  # a pickle is never passed on
                shutil.copyfile(file, folder / file.name)
        del model, trainable
        again, dtype = load_base(origin, "float32")
        load_adapter(again, folder)
        proof = comparison.prove(again, dtype=dtype, bound=request.bound)
        proof.demand(str(final))
        about = {"adapter": str(origin.adapter.resolve()), "base": origin.model.model_name_or_path}
        text = json.dumps(about | proof.to_json(), indent=2)
        (folder / "export_proof.json").write_text(text + "\n", encoding="utf-8")
        write_card(folder, origin, "a PEFT adapter", proof, "peft")
    return Exported(folder=final, proof=proof)
