# SPDX-License-Identifier: Apache-2.0
"""What a token leaves for the backward pass, counted in a model's real layers whose weights take no memory.

The model is built from its configuration and cut to two layers. Each matrix is one row of random numbers that all rows
share (stride 0), so layers of a 70B cost kilobytes (stacked experts: one expert's matrices). Widths, architecture, fast
modules and the method are the real ones, and `engine.memory` counts them as it does before a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from luthier.core import registry
from luthier.engine.memory import bytes_per_token
from luthier.engine.regional import decoder_layers
from luthier.models.fuse import fuse
from luthier.models.load import DENSE
from luthier.models.planted import NAME

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Bytes in 16 bits that a layer keeps for each token and unit of width, without its attention's weights.
# Reference: Korthikanti et al., arXiv 2205.05198, equation 2.
_PER_WIDTH = 34
_WORDS = 256  # of the cut model; `engine.memory` draws ids below 64
_TRIED = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError, AssertionError)


def saved_bytes(
    config: PretrainedConfig, dtype: torch.dtype, exclude: tuple[str, ...], trust_remote_code: bool = False
) -> tuple[int, int] | None:
    """Bytes that a token leaves for the backward pass in all layers together.

    Args:
        config: The model's configuration; left as it is.
        dtype: Of the base.
        exclude: Endings that LoRA leaves out.
        trust_remote_code: Run code that comes with the model.

    Returns:
        With LoRA on all linears, and in full fine-tuning; None where the cut model does not run.
    """
    try:
        lora = _measure(config, dtype, "lora", {"r": 1, "exclude_modules": list(exclude) or None}, trust_remote_code)
        return lora, _measure(config, dtype, "full", {}, trust_remote_code)
    except _TRIED:
        return None


def saved_by_formula(hidden_size: int, layers: int, itemsize: int) -> int:
    """The same from width and depth alone, for models whose layers do not run cut off.

    Reference:
        Korthikanti et al., arXiv 2205.05198, equation 2 without the attention's weights, which are recomputed here.

    Example:
        >>> saved_by_formula(4096, 32, 2)
        4456448
    """
    return _PER_WIDTH * hidden_size * layers * itemsize // 2


def _measure(
    config: PretrainedConfig, dtype: torch.dtype, method: str, keys: dict[str, Any], trust_remote_code: bool
) -> int:
    """Two layers against one, for each kind of layer, times how many there are of it."""
    model = _on_meta(config, dtype, trust_remote_code)
    layers = _list_of(model, decoder_layers(model))
    kinds = _kinds(layers)
    _keep(layers, [layer for first, second, _ in kinds for layer in dict.fromkeys((first, second))])
    _fill(model)
    fuse(model)
    entry = registry.get("methods", method)
    with torch.random.fork_rng():
        entry.apply(model, entry.Config(**keys))
    total = None
    for first, second, count in kinds:
        costs = []
        for some in ([first], [first, second]):
            _keep(layers, some)
            costs.append(bytes_per_token(model))
        slope = costs[1] - costs[0]
        # the first kind brings what is there once: embedding, last norm, head
        total = costs[0] + slope * (count - 1) if total is None else total + slope * count
    return total or 0


def _on_meta(config: PretrainedConfig, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    copy = type(config).from_dict(config.to_dict())
    text = copy.get_text_config()
    text.vocab_size, text.pad_token_id = _WORDS, None  # logits are never kept, and the head was two thirds of the time
    attention = DENSE.get(config.model_type, NAME)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            copy, dtype=dtype, attn_implementation=attention, trust_remote_code=trust_remote_code
        )
    return model


def _list_of(model: PreTrainedModel, layers: list[torch.nn.Module]) -> torch.nn.ModuleList:
    """The decoder's own list, which can be cut."""
    for child in model.get_decoder().children():
        if layers and isinstance(child, torch.nn.ModuleList) and list(child) == layers:
            return child
    raise LookupError(f"{type(model).__name__} has no list of layers")


def _kinds(layers: torch.nn.ModuleList) -> list[tuple[torch.nn.Module, torch.nn.Module, int]]:
    """Layers of the same parameters: two of them (the same one twice where there is one), and how many there are."""
    groups: dict[tuple[Any, ...], list[torch.nn.Module]] = {}
    for layer in layers:
        key = tuple((name, tuple(p.shape)) for name, p in layer.named_parameters())
        groups.setdefault(key, []).append(layer)
    return [(some[0], some[min(1, len(some) - 1)], len(some)) for some in groups.values()]


def _keep(layers: torch.nn.ModuleList, some: list[torch.nn.Module]) -> None:
    del layers[:]
    layers.extend(some)


def _fill(model: PreTrainedModel) -> None:
    """Give every tensor numbers: vectors ones, matrices one random row that all others share."""
    draw = torch.Generator().manual_seed(0)
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                made[id(parameter)] = torch.nn.Parameter(_filled(parameter, draw))
            setattr(module, name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.ones(buffer.shape, dtype=buffer.dtype))


def _filled(like: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Ones for a vector; for a matrix a row, and for stacked experts (whose product wants dense matrices) a matrix."""
    if like.ndim < 2:
        return torch.ones(like.shape, dtype=like.dtype)
    own = like.shape[-1:] if like.ndim == 2 else like.shape[-2:]
    return torch.randn(own, generator=draw, dtype=torch.float32).mul_(0.02).to(like.dtype).expand(like.shape)
