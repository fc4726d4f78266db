# SPDX-License-Identifier: Apache-2.0
"""Quantised bases: what transformers is told to load one, and what becomes of its layers (`kernels.quantized`).

    nf4, fp4, int8        made from a 16-bit checkpoint by bitsandbytes, layer by layer, while it is read
    quantised checkpoints bitsandbytes, GPTQ, AWQ, compressed-tensors: by the package that reads each of them

Whoever made the codes, every layer becomes torch's Linear again, around a matrix in few bits: methods, forests, fused
layers and shared bases need to know nothing of it. Embeddings, heads, norms and `modules_to_save` keep their numbers.
Codes are made of the checkpoint's own numbers, whatever `dtype` says: a run in float32 has the base of one in bfloat16.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import MissingExtra, ModelError, RecipeError
from luthier.kernels.quantized import Quantized
from luthier.models.libraries import DENSE_AGAIN, KINDS, dense_words, store_of
from luthier.models.packed import PACKED, packed_words

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from luthier.kernels.quantized import Store
    from luthier.recipe.schema import Model

RECORD = "quantization.json"  # beside an adapter: what its base was
_KEYS = ("quantization", "bnb_4bit_use_double_quant")


def loading_words(model: Model, config: PretrainedConfig, task_class: Any, whole: Collection[str]) -> dict[str, Any]:
    """What `from_pretrained` is to be told besides; nothing for a base in 16 or 32 bits.

    Args:
        model: The recipe's section.
        config: The checkpoint's.
        task_class: transformers' class that will load it.
        whole: Name endings of modules that keep their numbers (`modules_to_save`).

    Raises:
        MissingExtra: bitsandbytes is not installed.
        ModelError: The checkpoint is quantised already, or by something that is not known or not installed.
    """
    where, kind = f"model {model.model_name_or_path}", checkpoint_kind(config)
    place = {"device_map": {"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"}}
    if kind is not None:
        if model.quantization != "none":
            received = f"quantization: {model.quantization}, and a checkpoint that is quantised already ({kind})"
            raise ModelError(where, received, "one of them", "leave model.quantization out, or name the 16-bit model")
        _check_packages(kind, where)
        if kind in DENSE_AGAIN:
            return {"quantization_config": dense_words(kind)}
        if kind in PACKED:
            config.quantization_config = packed_words(_told(config), where)
            return {}
        return place if kind == "bitsandbytes" else {}
    if model.quantization == "none":
        return {}
    for package in ("bitsandbytes", "accelerate"):
        if find_spec(package) is None:
            raise MissingExtra(f"model.quantization: {model.quantization}", package, "bnb")
    from transformers import BitsAndBytesConfig

    skip = _skipped(task_class, config, model.trust_remote_code, whole) if whole else None
    how: dict[str, Any] = {"load_in_8bit": True}
    if model.quantization != "int8":
        how = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": model.quantization,
            "bnb_4bit_use_double_quant": model.bnb_4bit_use_double_quant,
        }
    return place | {"dtype": "auto", "quantization_config": BitsAndBytesConfig(**how, llm_int8_skip_modules=skip)}


def checkpoint_kind(config: PretrainedConfig) -> str | None:
    """What a checkpoint was quantised by, in transformers' words; None where it was not."""
    told = _told(config)
    return None if told is None else str(told.get("quant_method", "unknown"))


def _told(config: PretrainedConfig) -> dict[str, Any] | None:
    text = config.get_text_config()  # of a multimodal model, the decoder alone may be quantised
    told: Any = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None)
    return told if isinstance(told, dict) or told is None else told.to_dict()


def _check_packages(kind: str, where: str) -> None:
    if kind not in KINDS:
        allowed = f"16 or 32 bits, or {', '.join(KINDS)}"
        fix = "name the model that it was made from, with model.quantization: nf4 for 4 bits"
        raise ModelError(where, f"a checkpoint quantised by {kind}", allowed, fix)
    for package in KINDS[kind]:
        if find_spec(package) is None:
            words = " ".join(name.replace("_", "-") for name in KINDS[kind])
            fix = f"pip install {words}; or name the 16-bit model, with model.quantization: nf4"
            raise ModelError(where, f"a {kind} checkpoint, and no package {package!r}", "that package reads it", fix)


def _skipped(task_class: Any, config: PretrainedConfig, trust_remote_code: bool, whole: Collection[str]) -> list[str]:
    """Patterns of what stays as it is: what transformers leaves by itself, and these modules with all inside them."""
    from transformers.quantizers.base import get_keys_to_not_convert

    with torch.device("meta"):
        skeleton = task_class.from_config(config, trust_remote_code=trust_remote_code)
    own = [re.escape(name) for name in get_keys_to_not_convert(skeleton)]
    return own + [rf"(?:.*\.)?{re.escape(word)}(?:\..*)?" for word in whole]


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, bitsandbytes does not say that it has no kernels from the hub: its matrices are multiplied here."""
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def settle_quantized(loaded: PreTrainedModel, model: Model, dtype: torch.dtype) -> None:
    """Make a freshly loaded model one of torch's layers around matrices in few bits; of others, nothing changes.

    Args:
        loaded: By transformers, with :func:`loading_words`; changed in place.
        model: The recipe's section.
        dtype: What matrices become where they are multiplied, and of all that is not quantised.

    Raises:
        ModelError: Nothing in it could be quantised.
    """
    kind = checkpoint_kind(loaded.config)
    if kind is None:
        return
    dtype = loaded.dtype if str(dtype) == "auto" else dtype
    for name, module in list(loaded.named_modules()):
        store = store_of(module)
        if store is not None:
            made = _linear(store, getattr(module, "bias", None), dtype).train(module.training)
            turned: Any = made
            turned.was_turned = issubclass(getattr(module, "source_cls", nn.Linear), Conv1D)
            loaded.set_submodule(name, made)
    if not is_quantized(loaded):
        received = f"no linear layer outside of its head: {model.quantization if kind == 'bitsandbytes' else kind}"
        raise ModelError(f"model {model.model_name_or_path}", received, "a model with linear layers")
    _cast(loaded, dtype)
    told: Any = loaded
    if forget := getattr(getattr(told.hf_quantizer, "compressor", None), "remove_decompression_hook", None):
        forget(loaded)  # compressed-tensors would make the model dense at its first pass
    # Left behind, these would have transformers refuse to move the model, and call a merged one quantised.
    for key in ("hf_quantizer", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"):
        vars(told).pop(key, None)
    for config in (loaded.config, loaded.config.get_text_config()):
        for key in ("quantization_config", "_pre_quantization_dtype", "_is_quantized"):
            vars(config).pop(key, None)
    if model.quantization != "none":
        told.base_quantization = {key: getattr(model, key) for key in _KEYS}
        told.base_section = model


def _linear(store: Store, bias: torch.Tensor | None, dtype: torch.dtype) -> nn.Linear:
    rows, columns = store.shape
    with torch.device("meta"):
        made = nn.Linear(columns, rows, bias=False)
    made.weight = nn.Parameter(Quantized(store, dtype), requires_grad=False)
    made.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
    return made


def _cast(loaded: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give all that is not quantised its type, as `from_pretrained` would have done; buffers keep theirs."""
    kept = {*(loaded._keep_in_fp32_modules_strict or ())}
    kept |= {*(loaded._keep_in_fp32_modules or ())} if dtype == torch.float16 else set()
    for name, parameter in loaded.named_parameters():
        if parameter.is_floating_point() and kept.isdisjoint(name.split(".")) and not isinstance(parameter, Quantized):
            # on a CPU it lies in the mapped file, of which all pages that were read stay as long as one tensor does
            parameter.data = parameter.data.to(dtype, copy=parameter.device.type == "cpu")
    loaded.config.dtype = dtype


def is_quantized(model: nn.Module) -> bool:
    """Whether a model has a matrix in few bits."""
    return any(isinstance(parameter, Quantized) for parameter in model.parameters())


def refuse_quantized(model: nn.Module, method: str) -> None:
    """Refuse a method that writes into the base's matrices.

    Raises:
        RecipeError: They are quantised: codes have no gradient.
    """
    if is_quantized(model):
        allowed = (
            "methods that train beside the base: lora (QLoRA), adapter, ia3, prefix, prompt, ptuning, norm, bitfit"
        )
        fix = "choose `method: lora`, or train a 16-bit base (model.quantization: none)"
        raise RecipeError("method.name", f"{method} on a quantised base, whose matrices cannot move", allowed, fix)


def dense_(module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Give a module numbers in the place of its codes, of its own type or another, and return it."""
    for inner in module.modules():
        for leaf, parameter in list(inner.named_parameters(recurse=False)):
            if isinstance(parameter, Quantized):
                setattr(inner, leaf, nn.Parameter(parameter.store.dense(dtype or parameter.dtype), requires_grad=False))
    return module


def as_loaded(model: nn.Module) -> nn.Module:
    """A merged model as its architecture has it: dense, and GPT-2's Conv1D where a linear had taken its place."""
    for name, module in list(dense_(model).named_modules()):
        if getattr(module, "was_turned", False) and isinstance(module, nn.Linear):
            with torch.device("meta"):
                turned = Conv1D(module.out_features, module.in_features)
            turned.weight = nn.Parameter(module.weight.T.contiguous(), requires_grad=False)
            turned.bias = module.bias
            model.set_submodule(name, turned)
    return model


def told(model: nn.Module) -> str:
    """For messages: what a model's matrices are quantised to and what they take; nothing of others."""
    matrices = [p for p in model.parameters() if isinstance(p, Quantized)]
    if not matrices:
        return ""
    kept = sum(matrix.stored_bytes() for matrix in matrices)
    bits = 8 * kept / sum(matrix.numel() for matrix in matrices)
    return f", {len(matrices)} matrices in {bits:.2f} bits a weight ({kept / 2**20:.1f} MiB)"


def stored_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters as they are kept."""
    return sum(
        p.stored_bytes() if isinstance(p, Quantized) else p.numel() * p.element_size() for p in model.parameters()
    )


def write_record(model: nn.Module, folder: Path) -> None:
    """Write beside an adapter what its base was quantised to; nothing for others."""
    if told := getattr(model, "base_quantization", None):
        (folder / RECORD).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """What :func:`write_record` wrote, as keys of the recipe's section.

    Raises:
        ModelError: It is broken.
    """
    try:
        told = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {key: told[key] for key in _KEYS}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"adapter {folder}", f"{RECORD} cannot be read ({error})", "what Luthier wrote") from None
