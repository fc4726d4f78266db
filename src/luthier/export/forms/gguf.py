# SPDX-License-Identifier: Apache-2.0
"""One GGUF file for llama.cpp, Ollama and LM Studio: weights, settings, tokenizer and chat template.

It is written without llama.cpp, read again by transformers and compared with the trained model on held-out rows.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from luthier.core.errors import MissingExtra, ModelError
from luthier.export.card import write_card
from luthier.export.folder import new_folder
from luthier.export.forms._gguf_weights import add_settings, add_weights, check_model
from luthier.export.forms._gguf_words import add_words
from luthier.export.merge import Exported, vocabulary_of
from luthier.export.origin import find_result
from luthier.export.trained import open_trained
from luthier.models.bars import without_bars

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from luthier.export.trained import Request, Trained

WHOLE = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FEW = {"q8_0": 8, "q5_0": 5, "q5_1": 5, "q4_0": 4, "q4_1": 4}
# What transformers 5.23 does not read from a file of that kind, and has to be told.
_UNREAD = {"qwen3": ("head_dim",), "llama": ("attention_bias", "mlp_bias")}


class Config(BaseModel):
    """What the form can be told."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    dtype: Literal["auto", "f32", "f16", "bf16", "q8_0", "q5_0", "q5_1", "q4_0", "q4_1"] = "auto"
    """Numbers of the matrices; `auto`: the checkpoint's. Embedding and head of files in few bits are q8_0."""
    pre: str | None = None
    """llama.cpp's name of how text is split before BPE, where the tokenizer does not tell it."""


def write(request: Request, config: Config) -> Exported:
    """Write a folder with one GGUF file, its proof and its card.

    Raises:
        MissingExtra: The package gguf is not installed.
        UserError: There is no trained model, or it is of a kind that is not written here.
        RunFailed: What was written does not behave like what was trained; no folder is left.
    """
    if find_spec("gguf") is None:
        raise MissingExtra("--to gguf", "gguf", "export")
    origin = find_result(request.source, request.base)
    final = request.place(origin, "gguf")
    with new_folder(final, overwrite=request.overwrite, inputs=origin.inputs) as folder:
        trained = open_trained(request, "gguf")
        if trained.tokenizer is None:
            received = "a model without a tokenizer"
            raise ModelError("--to gguf", received, "one with tokenizer.json", "add it to the model's folder")
        kind: str = config.dtype
        if kind == "auto":
            kind = next((word for word, dtype in WHOLE.items() if dtype == trained.written), "f32")
        file = folder / f"{_name(origin.run or origin.adapter)}-{kind}.gguf"
        _write(file, trained, kind, config.pre, request)
        overrides = _told_besides(trained.model)
        device, computed = trained.model.device, trained.model.dtype
        del trained.model
        again = read_again(file, overrides).to(device, computed)
        few = (kind, FEW[kind]) if kind in FEW else None
        dtype = WHOLE.get(kind, torch.float16)
        proof = trained.comparison.prove(again, dtype=dtype, bound=request.bound, few=few)
        proof.demand(str(final))
        trained.record(proof, folder, file=file.name)
        write_card(folder, origin, f"GGUF, {kind}", proof, library="gguf")
    return Exported(folder=final, proof=proof)


def _name(place: Path) -> str:
    return place.resolve().name.replace(" ", "-")


def _write(file: Path, trained: Trained, kind: str, pre: str | None, request: Request) -> None:
    import gguf

    model = trained.model
    architecture = check_model(model)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name(file.stem)
    kinds: Any = gguf.LlamaFileType
    writer.add_file_type(kinds.ALL_F32 if kind == "f32" else getattr(kinds, f"MOSTLY_{kind.upper()}"))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_settings(writer, model)
    for told in add_words(writer, trained.tokenizer, model, vocabulary_of(model), pre):
        request.say(f"note: {told}")
    others = add_weights(writer, model, kind, architecture)
    if others:
        request.say(f"not in {kind}: {', '.join(others[:3])}{' ...' if len(others) > 3 else ''} ({len(others)} in all)")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _told_besides(model: PreTrainedModel) -> dict[str, Any]:
    config: Any = model.config
    words = {name: getattr(config, name) for name in _UNREAD.get(config.model_type, ())}
    if config.rope_parameters.get("rope_type", "default") != "default":
        words["rope_parameters"] = dict(config.rope_parameters)
    return words


def read_again(file: Path, overrides: dict[str, Any] | None = None) -> PreTrainedModel:
    """What transformers reads from a GGUF file, in float32.

    Args:
        file: The file.
        overrides: Settings that stand in the file and that transformers does not look for.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    place: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    config = AutoConfig.from_pretrained(**place)
    for name, value in (overrides or {}).items():
        setattr(config, name, value)
    model: PreTrainedModel
    with without_bars(), redirect_stderr(StringIO()):  # its bar is one that transformers cannot be told to leave out
        model = AutoModelForCausalLM.from_pretrained(
            **place, config=config, dtype=torch.float32, attn_implementation="eager"
        )
    return model
