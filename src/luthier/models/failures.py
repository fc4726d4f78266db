# SPDX-License-Identifier: Apache-2.0
"""Why a model or tokenizer cannot be loaded: what transformers raises, in words that help."""

from __future__ import annotations

import os
from pathlib import Path

from luthier.core.errors import ModelError

EMBEDDED = {"embedded": "small", "embedded-tiny": "tiny"}
# What a model raises that is asked in a way that its layers do not know; what they leave open is a RuntimeError, too.
UNKNOWN_WAYS = (ValueError, TypeError, RuntimeError, AttributeError, LookupError)


def load_errors() -> tuple[type[Exception], ...]:
    """What transformers raises for a model that cannot be loaded."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    known = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError)
    return (*known, SafetensorError, StrictDataclassError)


def cannot_load(name: str, what: str, error: Exception) -> ModelError:
    """Say in words that help why a model or tokenizer cannot be loaded.

    Args:
        name: What the user calls it.
        what: `model` or `tokenizer`.
        error: What transformers raised.
    """
    where, text = f"{what} {name}", " ".join(str(error).split())
    folder = Path(name).expanduser()
    if "trust_remote_code" in text:
        return ModelError(
            where,
            "it needs Python code that comes with it",
            "architectures that transformers knows, unless model.trust_remote_code is true",
            "read that code first; set model.trust_remote_code: true only if you trust it",
        )
    if type(error).__name__ == "SafetensorError":
        return ModelError(
            where,
            f"{_broken_file(folder)} cannot be read ({text[:200]})",
            "whole safetensors files",
            "download the file again: it is cut off or is not safetensors",
        )
    if "ignore_mismatched_sizes" in text:
        return ModelError(
            where,
            "weights have other shapes than config.json says (transformers' report above names them)",
            "weights and configuration of the same model",
            "download the whole folder again",
        )
    on_hub = not folder.exists() and name not in EMBEDDED
    if on_hub and (os.environ.get("HF_HUB_OFFLINE") == "1" or "connect" in text.lower() or "offline" in text.lower()):
        return ModelError(
            where,
            "not in the local cache, and the hub cannot be reached (or HF_HUB_OFFLINE is set)",
            "a local folder, a model downloaded before, or 'embedded'",
            f"download it where there is a network (hf download {name}) and name the folder",
        )
    fix = "check the name and the revision" if on_hub else "check the folder"
    return ModelError(where, f"cannot be loaded ({text[:300]})", "a causal language model that transformers knows", fix)


def _broken_file(folder: Path) -> str:
    """The first safetensors file of a folder whose header cannot be read."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError):
            return file.name
    return "a weight file"
