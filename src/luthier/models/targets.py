# SPDX-License-Identifier: Apache-2.0
"""Which modules a method rewires: the model's tree by kind, and the words of `target_modules`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Collection

    from transformers import PreTrainedModel

Kind = Literal["attention", "mlp", "norm", "embedding", "head", "other"]

_ATTENTION = re.compile(r"(^|[._])(self_?attn|attn|attention|self_attention)([._]|$)")
_MLP = re.compile(r"(^|[._])(mlp|ffn|feed_forward|fc1|fc2|dense_h_to_4h|dense_4h_to_h)([._]|$)")
_LAYER = re.compile(r"\.(?:layers|h|blocks|block|layer)\.(\d+)\.")
WORDS = ("all-linear", "attention", "mlp")


def is_linear(module: nn.Module) -> bool:
    """A matrix product with stored weights: torch's Linear or transformers' Conv1D (GPT-2, transposed)."""
    return isinstance(module, nn.Linear | Conv1D)


def kind_of(name: str, module: nn.Module, head: nn.Module | None = None) -> Kind:
    """Sort one leaf module by what it is and where it stands."""
    if module is head or name.split(".")[-1] in ("lm_head", "embed_out"):
        return "head"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if "norm" in type(module).__name__.lower():
        return "norm"
    if _ATTENTION.search(name):
        return "attention"
    if _MLP.search(name):
        return "mlp"
    return "other"


def layer_number(name: str) -> int | None:
    """The decoder layer a module stands in, or None.

    Example:
        >>> layer_number("model.layers.3.mlp.up_proj")
        3
    """
    found = _LAYER.search(f".{name}.")
    return int(found.group(1)) if found else None


def find_targets(
    model: PreTrainedModel,
    target_modules: str | Collection[str],
    *,
    exclude_modules: str | Collection[str] | None = None,
    layers_to_transform: Collection[int] | None = None,
    where: str = "method.target_modules",
) -> dict[str, nn.Module]:
    """Resolve `target_modules` to modules, in the model's order.

    Args:
        model: The plain model.
        target_modules: Name endings (`q_proj`), a regular expression over the whole name, or one of
            `all-linear` (all but the head), `attention`, `mlp`.
        exclude_modules: Name endings or a regular expression to leave out.
        layers_to_transform: Only these decoder layers.
        where: The recipe key, for errors.

    Raises:
        RecipeError: A word matches nothing, or nothing is left.
    """
    head = model.get_output_embeddings()
    named = [(name, module) for name, module in model.named_modules() if is_linear(module) or isinstance(module, nn.Embedding)]
    found: dict[str, nn.Module] = {}
    if isinstance(target_modules, str) and target_modules in WORDS:
        kinds = {"all-linear": ("attention", "mlp", "other"), "attention": ("attention",), "mlp": ("mlp",)}[target_modules]
        found = {n: m for n, m in named if is_linear(m) and kind_of(n, m, head) in kinds}
    elif isinstance(target_modules, str):
        pattern = _compiled(target_modules, where)
        found = {n: m for n, m in named if pattern.fullmatch(n)}
    else:
        for word in target_modules:
            if not any(_ends(name, word) for name, _ in named):
                raise RecipeError(where, f"{word!r} matches no linear or embedding layer", _endings(named))
        found = {n: m for n, m in named if any(_ends(n, word) for word in target_modules)}
    if exclude_modules is not None:
        found = {n: m for n, m in found.items() if not _excluded(n, exclude_modules, where)}
    if layers_to_transform is not None:
        found = {n: m for n, m in found.items() if layer_number(n) in set(layers_to_transform)}
    if not found:
        raise RecipeError(where, f"{target_modules!r} leaves nothing to train", _endings(named), "run `luthier inspect MODEL`")
    return found


def _ends(name: str, word: str) -> bool:
    return name == word or name.endswith(f".{word}")


def _excluded(name: str, exclude: str | Collection[str], where: str) -> bool:
    if isinstance(exclude, str):
        return bool(_compiled(exclude, where.replace("target_", "exclude_")).fullmatch(name))
    return any(_ends(name, word) for word in exclude)


def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise RecipeError(where, f"{pattern!r} is no regular expression ({error})", f"or one of {', '.join(WORDS)}") from None


def _endings(named: list[tuple[str, nn.Module]]) -> str:
    return "the model has " + ", ".join(sorted({name.split(".")[-1] for name, _ in named}))
