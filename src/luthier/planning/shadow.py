# SPDX-License-Identifier: Apache-2.0
"""A model with its method from the configuration alone: its real layers, whose weights take no memory.

Each matrix is one row of random numbers that all rows share (stride 0), so layers of a 70B cost kilobytes (stacked
experts: one expert's matrices), and their products a column (`planning.alike`). Widths, architecture, fast modules and
the method are the real ones, so what is counted in a shadow is what is counted in the model. Models above a billion
numbers are cut to one and two layers of each kind; what the others have is the difference.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from luthier.core import registry
from luthier.core.errors import LuthierError
from luthier.engine.flops import Rates, count_rates
from luthier.engine.regional import decoder_layers
from luthier.models.backbone import bare_head
from luthier.models.fuse import fuse
from luthier.models.load import DENSE
from luthier.models.planted import NAME
from luthier.models.source_target import is_encoder_decoder
from luthier.models.tasks import auto_class
from luthier.planning.activations import Kept, bytes_per_token, kept_bytes
from luthier.planning.alike import AlikeRows
from luthier.planning.counts import Counts, count, linear_numbers
from luthier.planning.few_bits import quantise
from luthier.planning.moving import NOT_COUNTED, Moving, moving_of, on_meta, started, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PretrainedConfig, PreTrainedModel

    from luthier.core.tasks import Task
    from luthier.core.trainable import Trainable
    from luthier.recipe import Model

_WORDS = 256  # of a cut model; activations are counted with ids below 64
WHOLE = 1_000_000_000  # numbers of a model that is not cut: counting takes some seconds


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
    found = []
    for method in ({"name": "lora", "r": 1, "exclude_modules": list(exclude) or None}, {"name": "full"}):
        try:
            model = build(config, dtype, "CAUSAL_LM", trust_remote_code, words=_WORDS)
            kinds = [number for _, _, number in _kinds(_list_of(model))]
            found.append(_grown([bytes_per_token(cut.model) for cut in _cuts(model, method)], kinds))
        except NOT_COUNTED:
            return None
    return found[0], found[1]


def shadow_counts(
    config: PretrainedConfig, dtype: torch.dtype, task: Task, method: dict[str, Any], trust_remote_code: bool = False
) -> Counts:
    """Count a model with its method from the configuration.

    Args:
        config: Left as it is.
        dtype: Of the base.
        task: What the model is for.
        method: The recipe's section.
        trust_remote_code: Run code that comes with the model.

    Raises:
        UserError: The method refuses the model.
    """
    with AlikeRows():
        return _counted(config, dtype, task, method, trust_remote_code)


def _counted(
    config: PretrainedConfig, dtype: torch.dtype, task: Task, method: dict[str, Any], trust_remote_code: bool
) -> Counts:
    whole = build(config, dtype, task, trust_remote_code)
    if sum(p.numel() for p in whole.parameters()) <= WHOLE or is_encoder_decoder(whole):
        return count(_applied(whole, method), "configuration")
    taken, exact = stored_bytes(whole), on_meta(whole, method)
    cut = build(config, dtype, task, trust_remote_code, words=_WORDS)
    kinds = [number for _, _, number in _kinds(_list_of(cut))]
    try:
        kept, rates = [], []
        for trainable in _cuts(cut, method):
            kept.append(kept_bytes(trainable.model))
            rates.append(count_rates(cast("PreTrainedModel", trainable.model)))
    except (*NOT_COUNTED, LuthierError):
        return count(_applied(whole, method), "configuration")  # slow, and always right
    if exact is None:
        exact = moving_of(_applied(build(config, dtype, task, trust_remote_code), method), taken)
    return _extended(whole, exact, kinds, kept, rates, trainable)


def dense_shadow(
    config: PretrainedConfig,
    dtype: torch.dtype,
    task: Task,
    method: dict[str, Any],
    how: Model,
    room: int,
) -> Trainable | None:
    """The model with its method, of random numbers that each have a place in memory: as fast as the real one.

    Args:
        config: Left as it is.
        dtype: Of the base.
        task: What the model is for.
        method: The recipe's section.
        how: The recipe's section of the model.
        room: Bytes that it may take; None is given where it would take more.
    """
    model = build(config, dtype, task, how.trust_remote_code)
    if sum(p.numel() * p.element_size() for p in model.parameters()) > room:
        return None
    return _applied(model, method, how)


def _extended(
    whole: PreTrainedModel, exact: Moving, kinds: list[int], kept: list[Kept], rates: list[Rates], last: Trainable
) -> Counts:
    """The whole model's counts from those of its cuts."""
    parameters = [(p.numel(), p.element_size()) for p in whole.parameters()]
    text: Any = whole.config.get_text_config()
    head = 2 * text.hidden_size * (int(text.vocab_size) - _WORDS)  # products forward and for x; a cut's is narrow
    trains_head = 1 + any(n == text.hidden_size * text.vocab_size for some in exact.trained.values() for n in some) / 2
    return Counts(
        parameters=sum(numel for numel, _ in parameters),
        weights=sum(numel * size for numel, size in parameters),
        **exact._asdict(),
        itemsize=whole.dtype.itemsize,
        layers=len(decoder_layers(whole)),
        hidden=int(text.hidden_size),
        vocabulary=int(text.vocab_size),
        kept=Kept(*(int(_grown(list(some), kinds)) for some in zip(*kept, strict=True))),
        rates=Rates(
            per_token=_grown([one.per_token for one in rates], kinds),
            per_scored=rates[0].per_scored + 2 * head * trains_head,
            per_pair=_grown([one.per_pair for one in rates], kinds),
            per_pass=_grown([one.per_pass for one in rates], kinds),
        ),
        recomputes=bool(whole.supports_gradient_checkpointing),
        linear=linear_numbers(whole),
        folder=last.folder,
        bare_head=bare_head(cast("PreTrainedModel", last.model)),
        starts_as_base=last.starts_as_base,
        counted="configuration",
    )


def _applied(model: PreTrainedModel, method: dict[str, Any], dense: Model | None = None) -> Trainable:
    _fill(model, dense=dense is not None)
    if dense is not None:
        quantise(model, dense)
    fuse(model)
    entry = registry.get("methods", method["name"])
    with torch.random.fork_rng():
        trainable: Trainable = entry.apply(model, started(method))
    return trainable


def build(
    config: PretrainedConfig, dtype: torch.dtype, task: Task, trust_remote_code: bool = False, words: int | None = None
) -> PreTrainedModel:
    """The model on the meta device; with so many words only, where its head and embedding need not be real."""
    copy = type(config).from_dict(config.to_dict())
    if words is not None:
        text = copy.get_text_config()
        text.vocab_size, text.pad_token_id = words, None  # logits are never kept, and the head was most of the time
    chosen: str | None = DENSE.get(config.model_type, NAME)
    if task == "SEQ_2_SEQ_LM":
        chosen = None
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(task).from_config(
            copy, dtype=dtype, attn_implementation=chosen, trust_remote_code=trust_remote_code
        )
    return model


def _cuts(model: PreTrainedModel, method: dict[str, Any]) -> Iterator[Trainable]:
    """With the method: for each kind of layer one of them, and one more."""
    layers = _list_of(model)
    kinds = _kinds(layers)
    _keep(layers, [layer for first, second, _ in kinds for layer in dict.fromkeys((first, second))])
    with _told(model, len(layers)):
        trainable = _applied(model, method)
    for first, second, _ in kinds:
        for some in ([first], [first, second]):
            _keep(layers, some)
            with _told(model, len(some)):
                yield trainable


@contextmanager
def _told(model: PreTrainedModel, layers: int) -> Iterator[None]:
    """Inside, the configuration has as many layers as are left."""
    text = model.config.get_text_config()
    before = text.num_hidden_layers
    text.num_hidden_layers = layers
    try:
        yield
    finally:
        text.num_hidden_layers = before


def _grown(costs: list[Any], kinds: list[int]) -> Any:
    """What all layers cost: the first kind brings what is there once (embedding, last norm, head).

    Example: one kind of 32 layers that costs 10 with one and 12 with two of them.
        >>> _grown([10, 12], [32])
        72
    """
    total: Any = None
    for place, number in enumerate(kinds):
        first, slope = costs[2 * place], costs[2 * place + 1] - costs[2 * place]
        total = first + slope * (number - 1) if total is None else total + slope * number
    return total or 0


def _list_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder's own list, which can be cut."""
    layers = decoder_layers(model)
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


def _fill(model: PreTrainedModel, *, dense: bool = False) -> None:
    """Give every tensor numbers: vectors ones, matrices one random row that all others share, or have copies of."""
    draw = torch.Generator().manual_seed(0)
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                filled = _filled(parameter, draw)
                made[id(parameter)] = torch.nn.Parameter(filled.contiguous() if dense else filled)
            setattr(module, name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.ones(buffer.shape, dtype=buffer.dtype))


def _filled(like: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Ones for a vector; for a matrix a row, and for stacked experts (whose product wants dense matrices) a matrix."""
    if like.ndim < 2:
        return torch.ones(like.shape, dtype=like.dtype)
    own = like.shape[-1:] if like.ndim == 2 else like.shape[-2:]
    return torch.randn(own, generator=draw, dtype=torch.float32).mul_(0.02).to(like.dtype).expand(like.shape)
