# SPDX-License-Identifier: Apache-2.0
"""A folder or name -> tokenizer and model, weights from safetensors only, checked before anything is trained.

transformers is imported when a model is asked for: ``luthier --help`` stays quick.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.recipe.schema import Model

EMBEDDED = {"embedded": "small", "embedded-tiny": "tiny"}


def locate(name_or_path: str) -> str:
    """Resolve `embedded`, a folder or a hub name to what transformers takes.

    Raises:
        ModelError: It looks like a path and is not there, or the folder holds no usable model.
    """
    if name_or_path in EMBEDDED:
        return str(Path(__file__).parent / "embedded" / EMBEDDED[name_or_path])
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        _check_folder(path)
        return str(path)
    if path.exists():
        raise ModelError(f"model {name_or_path}", "a file", "a transformers folder", "name the folder that holds config.json")
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise ModelError(f"model {name_or_path}", "no such folder", "a transformers folder, a hub name, or 'embedded'")
    return name_or_path


def _check_folder(path: Path) -> None:
    where = f"model {path}"
    files = {file.name for file in path.iterdir()}
    if "adapter_config.json" in files and "config.json" not in files:
        raise ModelError(
            where,
            "an adapter folder, not a model",
            "a folder with config.json and *.safetensors",
            "name its base in model.model_name_or_path and this folder in model.adapter_name_or_path",
        )
    if "config.json" not in files:
        raise ModelError(where, "no config.json", "a transformers folder", "convert the model with its publisher's script")
    if not any(name.endswith(".safetensors") for name in files):
        pickles = sorted(n for n in files if n.endswith((".bin", ".pt", ".pth", ".ckpt")))
        if pickles:
            raise ModelError(
                where,
                f"weights as pickle only ({', '.join(pickles[:3])})",
                "safetensors: a pickle can run code when it is opened",
                "convert it once in a place you trust: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)",
            )
        raise ModelError(where, "no weights", "at least one *.safetensors file", "download the whole model folder")


def load_tokenizer(name_or_path: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer of a model.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    place = locate(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreachable(name_or_path, "tokenizer", error) from error
    if not tokenizer.is_fast:
        raise ModelError(f"tokenizer {name_or_path}", "a slow tokenizer", "a tokenizer.json (fast tokenizer)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # only generation pads, and there the mask hides it
    return tokenizer


def load_model(model: Model, dtype: torch.dtype, *, attention: str = "luthier") -> PreTrainedModel:
    """Load a causal language model for training.

    Args:
        model: The recipe's section.
        dtype: Of all weights.
        attention: Attention implementation; `luthier` runs forests.

    Raises:
        ModelError: The folder is not usable, or the architecture cannot run a forest.
    """
    import luthier.kernels.attention  # noqa: F401 - registers the attention
    from transformers import AutoModelForCausalLM

    place = locate(model.model_name_or_path)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            place,
            revision=model.model_revision,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=model.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        raise _unreachable(model.model_name_or_path, "model", error) from error
    _check_missing(model.model_name_or_path, loaded)
    return loaded  # type: ignore[no-any-return]


def _check_missing(name: str, model: Any) -> None:
    """Weights that the checkpoint lacks were drawn at random: never train on those in silence."""
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    for key, tensor in model.state_dict().items():
        if tensor.is_meta and key not in tied:
            raise ModelError(f"model {name}", f"no weights for {key}", "a complete checkpoint", "download the folder again")


def _unreachable(name: str, what: str, error: Exception) -> ModelError:
    first = str(error).strip().split("\n")[0][:300]
    offline = os.environ.get("HF_HUB_OFFLINE") == "1" or "offline" in str(error).lower() or "connect" in str(error).lower()
    hub = not Path(name).expanduser().exists() and name not in EMBEDDED
    fix = "give a local folder, or download the model first" if hub and offline else "check the name and the folder"
    return ModelError(f"{what} {name}", f"cannot be loaded ({first})", "a causal language model that transformers knows", fix)


@cache
def bf16_is_fast(device: str = "cpu") -> bool:
    """Whether this machine multiplies bfloat16 in hardware (avx512_bf16, AMX, or a GPU that has it)."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
