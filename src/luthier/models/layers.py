# SPDX-License-Identifier: Apache-2.0
"""The layers of a model, and where in one the attention and the MLP end."""

from __future__ import annotations

import re

from torch import nn

from luthier.core.errors import RecipeError
from luthier.models.source_target import is_encoder_decoder
from luthier.models.targets import ends_with, in_decoder, is_linear, kind_of

# What models call the linear that ends attention, the MLP as a module, and the linear that ends an MLP.
ATTENTION_ENDS = ("o_proj", "out_proj", "c_proj", "dense", "wo", "o", "Wo", "out_lin")
MLPS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "DenseReluDense")
MLP_ENDS: tuple[str, ...] = ("down_proj", "dense_4h_to_h", "mlp.c_proj", "fc2", "fc_out", "w2", "DenseReluDense.wo")
MLP_ENDS += ("mlp.Wo", "lin2", "ffn_output")  # encoders'
_BERT_END = re.compile(r"(^|.*\.\d+\.)output\.dense")  # its attention has an `output.dense` too
CROSS = ("EncDecAttention", "encoder_attn")  # a decoder's attention to the source


def find_stacks(model: nn.Module, where: str) -> list[tuple[str, int]]:
    """Name and length of each list of layers that text runs through: one, or those of encoder and decoder.

    Args:
        model: Any model, plain or adapted.
        where: The recipe key that errors name.

    Raises:
        RecipeError: There is none.
    """
    if not is_encoder_decoder(model):
        return [find_layers(model, where)]
    names, found = {id(module): name for name, module in model.named_modules()}, []
    for stack in (model.get_encoder(), model.get_decoder()):  # type: ignore[operator]
        lists = [child for child in stack.children() if isinstance(child, nn.ModuleList)]
        if not lists:
            received = f"{type(stack).__name__} has no list of layers"
            raise RecipeError(where, received, "a model with numbered layers", "choose another method")
        longest = max(lists, key=len)
        found.append((names[id(longest)], len(longest)))
    return found


def find_layers(model: nn.Module, where: str) -> tuple[str, int]:
    """Name and length of the list of layers that text runs through: the longest that is in no other.

    Args:
        model: Any model, plain or adapted.
        where: The recipe key that errors name.

    Raises:
        RecipeError: There is none.
    """
    within = in_decoder(model)
    lists: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name in within and not any(name.startswith(f"{n}.") for n in lists):
            lists[name] = len(module)
    if not lists:
        received = f"{type(model).__name__} has no list of layers"
        raise RecipeError(where, received, "a model with numbered layers", "choose another method")
    name = max(lists, key=lambda name: lists[name])
    return name, lists[name]


def heaviest_list(stack: nn.Module) -> list[nn.Module]:
    """The repeated layers of a stack: the list of modules that holds the most parameters, wherever; empty for none."""
    lists = [list(child) for child in stack.modules() if isinstance(child, nn.ModuleList)]
    return max(lists, key=lambda layers: sum(p.numel() for layer in layers for p in layer.parameters()), default=[])


def attention_end(layer: nn.Module) -> str | None:
    """The linear that ends attention to the text itself, by its name in the layer; None if there is not just one."""
    found = [
        name
        for name, module in layer.named_modules()
        if is_linear(module)
        and kind_of(name, module) == "attention"
        and name.split(".")[-1] in ATTENTION_ENDS
        and not set(CROSS) & set(name.split("."))
    ]
    return found[0] if len(found) == 1 else None


def mlp_of(layer: nn.Module) -> str | None:
    """The module that is the MLP or the experts, by its name in the layer; None if there is not just one."""
    parts = list(layer.named_children())
    parts += [
        (f"{list_}.{place}.{name}", module)  # T5 numbers the parts of a layer
        for list_, child in parts
        if isinstance(child, nn.ModuleList)
        for place, part in enumerate(child)
        for name, module in part.named_children()
    ]
    found = [name for name, module in parts if name.split(".")[-1] in MLPS and not is_linear(module)]
    return found[0] if len(found) == 1 else None


def mlp_end(layer: nn.Module) -> str | None:
    """The linear that ends the MLP of a layer, by its name in the layer; None if not just one."""
    found = [name for name, module in layer.named_modules() if is_linear(module) and ends_mlp(name)]
    return found[0] if len(found) == 1 else None


def ends_mlp(name: str) -> bool:
    """Whether a linear of this name, in a layer or in a model, ends an MLP.

    Example:
        >>> ends_mlp("model.layers.3.mlp.down_proj"), ends_mlp("bert.encoder.layer.3.attention.output.dense")
        (True, False)
        >>> ends_mlp("bert.encoder.layer.3.output.dense")
        True
    """
    return any(ends_with(name, end) for end in MLP_ENDS) or _BERT_END.fullmatch(name) is not None
