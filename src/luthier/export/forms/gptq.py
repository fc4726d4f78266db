# SPDX-License-Identifier: Apache-2.0
"""A transformers folder in 4 or 8 bits a weight, rounded by GPTQ on training rows, for vLLM, SGLang and transformers.

Linears in the layers are rounded one after the other, each on what the rounded layers before it give; embedding,
head and norms stay in 16 bits. The folder is read again and compared with the trained model on held-out rows.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from huggingface_hub import save_torch_state_dict
from pydantic import BaseModel, ConfigDict, Field

from luthier.core.errors import MissingExtra, ModelError, UserError
from luthier.export.calibration import calibration_rows
from luthier.export.card import write_card
from luthier.export.folder import new_folder
from luthier.export.forms._gptq_files import compressed_config, compressed_tensors, gptq_config, gptq_tensors
from luthier.export.forms._gptq_layers import round_layers
from luthier.export.gptq import Rounding
from luthier.export.held_out import read_texts
from luthier.export.merge import Exported, vocabulary_of
from luthier.export.origin import find_result
from luthier.export.trained import open_trained
from luthier.models.backbone import learned_positions
from luthier.models.bars import without_bars
from luthier.models.load import load_model
from luthier.models.save import save_words
from luthier.recipe import Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from luthier.export.gptq import Codes
    from luthier.export.trained import Request, Trained


class Config(BaseModel):
    """What the form can be told."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    bits: Literal[4, 8] = 4
    """Bits of a weight."""
    group_size: Annotated[int, Field(gt=0)] = 128
    """Columns that share a scale; it divides the inputs of every linear."""
    desc_act: bool = False
    """Round the columns first that matter most (act-order): more exact, and slower in some kernels."""
    static_groups: bool = False
    """With `desc_act`: groups of neighbours, as without it; compressed-tensors needs it."""
    sym: bool = True
    """Codes even around zero; false: each group has a zero of its own (`format: gptq` alone)."""
    damp_percent: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """What is added to the diagonal of the inputs' covariance, as a share of its mean."""
    rows: Annotated[int, Field(gt=0)] = 128
    """Rows to calibrate on."""
    max_length: Annotated[int, Field(gt=1)] = 512
    """Tokens of such a row at most."""
    texts: str | None = None
    """Calibrate on the lines of this file instead of the run's training rows."""
    format: Literal["gptq", "compressed-tensors"] = "gptq"
    """Layout on disk: that of AutoGPTQ and gptqmodel, or compressed-tensors', which transformers reads on CPUs."""
    max_shard_size: str = "5GB"
    """Largest file of weights."""


def write(request: Request, config: Config) -> Exported:
    """Write the folder, its proof and its card.

    Raises:
        UserError: There is no trained model, its sizes do not fit, or keys exclude each other.
        RunFailed: What was written does not behave like what was trained; no folder is left.
    """
    how = Rounding(**{name: getattr(config, name) for name in Rounding.__dataclass_fields__})
    _check(config)
    given = read_texts(Path(config.texts).expanduser()) if config.texts else ()
    origin = find_result(request.source, request.base)
    final = request.place(origin, "gptq")
    with new_folder(final, overwrite=request.overwrite, inputs=origin.inputs) as folder:
        trained = open_trained(request, "gptq")
        model: Any = trained.model
        if trained.tokenizer is None:
            received = "a model without a tokenizer"
            raise ModelError("--to gptq", received, "one with tokenizer.json", "add it to the model's folder")
        most = min(config.max_length, learned_positions(model.get_decoder()) or config.max_length)
        words = vocabulary_of(model)
        rows, label = calibration_rows(origin, trained.tokenizer, words, config.rows, most, given, request.say)
        request.say(f"calibrating on {len(rows)} rows, {sum(map(len, rows)):,} tokens ({label})")
        codes = round_layers(model, rows, how, request.say)
        bytes_ = _write(trained, codes, how, config, folder)
        device, computed = model.device, model.dtype
        del model, trained.model
        again = _read_again(folder, config.format).to(device, computed)
        few = (f"{config.format} {how.bits} bits, group {how.group_size}", how.bits)
        proof = trained.comparison.prove(again, dtype=torch.float16, bound=request.bound, few=few)
        proof.demand(str(final))
        calibrated = {"rows": len(rows), "tokens": sum(map(len, rows)), "from": label}
        trained.record(proof, folder, calibration=calibrated, weight_bytes=bytes_)
        write_card(folder, origin, few[0], proof)
    return Exported(folder=final, proof=proof)


def _check(config: Config) -> None:
    if config.format == "gptq":
        return
    if not config.sym:
        # transformers 5.23 makes room for unpacked zeros and then finds the packed ones that compressed-tensors writes.
        received, fix = "sym=false with format=compressed-tensors", "write format=gptq, or leave sym out"
        raise UserError("--to gptq", received, "codes even around zero: zeros do not load again", fix)
    if config.desc_act and not config.static_groups:
        received = "desc_act=true with format=compressed-tensors"
        fix = "add static_groups=true, or write format=gptq"
        raise UserError("--to gptq", received, "groups of neighbours: its readers know no others", fix)
    if find_spec("compressed_tensors") is None:
        raise MissingExtra("format=compressed-tensors", "compressed_tensors", "export")


def _write(trained: Trained, codes: dict[str, Codes], how: Rounding, config: Config, folder: Path) -> int:
    """Write weights, configuration and tokenizer; give the bytes of the weights."""
    model: Any = trained.model
    written = torch.float16 if trained.written == torch.float32 else trained.written  # no kernel reads float32
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") in codes or tensor.data_ptr() in seen:  # the second name of a tied matrix
            continue
        seen.add(tensor.data_ptr())
        tensors[name] = tensor.to("cpu", written if tensor.is_floating_point() else tensor.dtype)
    for name, found in codes.items():
        packed = gptq_tensors(found, how) if config.format == "gptq" else compressed_tensors(found, how, written)
        tensors |= {f"{name}.{leaf}": tensor.cpu() for leaf, tensor in packed.items()}
    save_torch_state_dict(tensors, folder, max_shard_size=config.max_shard_size)
    left = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n not in codes]
    about = gptq_config(how) if config.format == "gptq" else compressed_config(how, left)
    model.config.dtype, model.config.quantization_config = written, about
    model.config.save_pretrained(folder)
    if model.generation_config is not None:  # as it was loaded: transformers refuses to save what contradicts itself
        text = model.generation_config.to_json_string()
        (folder / "generation_config.json").write_text(text, encoding="utf-8")
    save_words(trained.tokenizer, model, folder)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _read_again(folder: Path, layout: str) -> PreTrainedModel:
    """GPTQ's layout by Luthier's own reader, compressed-tensors by transformers and that package."""
    if layout == "gptq":
        return load_model(Model(model_name_or_path=str(folder)), torch.float32, attention="eager")
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel
    with without_bars(), redirect_stderr(StringIO()):  # the package's own bars
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model
