# SPDX-License-Identifier: Apache-2.0
"""What a plan must know of a model with its method: numbers, bytes, operations. From the real one or from a shadow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from luthier.engine.flops import Rates, count_rates
from luthier.engine.optim import moved_numbers, transform_bytes
from luthier.engine.regional import decoder_layers
from luthier.kernels.quantized import Quantized
from luthier.models.backbone import bare_head
from luthier.models.source_target import is_encoder_decoder
from luthier.models.targets import is_linear
from luthier.planning.activations import Kept, dense_bytes, kept_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luthier.core.trainable import Trainable


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A model with its method, in numbers.

    Attributes:
        parameters: Numbers of the base.
        weights: Bytes of the base as it is kept.
        trained: Numbers of each parameter that trains, by how many bytes one has: `{4: (768, 768), 2: ()}`.
        added: Bytes of parameters that the method put beside the base.
        itemsize: Bytes of a number that runs through the layers.
        layers: Repeated ones; 0 where none were found.
        hidden: Width of the residual stream.
        vocabulary: Words of the head.
        kept: What a token leaves for the backward pass, in all layers.
        dense: Bytes of the largest quantised matrix where it is multiplied.
        rates: Operations of a training step.
        recomputes: Whether the architecture can recompute its layers.
        linear: Numbers in the linears of the layers, which a quantised base keeps in fewer bits.
        folder: What the result is: an adapter beside its base, or a whole model.
        moved: Numbers that the optimiser moves where a method makes gradients smaller (GaLore); None: all that train.
        beside_state: Bytes that such a method keeps from step to step besides the optimiser's state.
        layerwise: Whether each parameter moves in the backward pass, so that one gradient is there at a time.
        bare_head: Whether logits are one product, whose loops on a CPU need no copy of them (`kernels.logprob`).
        starts_as_base: Whether the model computes what its base does before the first step.
        counted: Where this comes from: the model itself, or its configuration alone.
    """

    parameters: int
    weights: int
    trained: dict[int, tuple[int, ...]]
    added: int
    itemsize: int
    layers: int
    hidden: int
    vocabulary: int
    kept: Kept
    dense: int = 0
    rates: Rates
    recomputes: bool = True
    linear: int = 0
    folder: Literal["adapter", "model"] = "adapter"
    moved: int | None = None
    beside_state: int = 0
    layerwise: bool = False
    bare_head: bool = False
    starts_as_base: bool = True
    counted: str = "model"

    @cached_property
    def numbers(self) -> int:
        """Numbers that train."""
        return sum(map(sum, self.trained.values()))

    @cached_property
    def gradients(self) -> int:
        """Numbers of gradients that are there at once; with smaller ones, these and what stands for parameters too."""
        largest = max((numel for some in self.trained.values() for numel in some), default=0)
        return (largest if self.layerwise else self.numbers) + 2 * (self.moved or 0)

    def quantised(self, bits: float) -> Counts:
        """The same with the linears of the base kept in so many bits; one of them is dense at a time."""
        packed = int(self.linear * bits / 8) + self.weights - self.linear * self.itemsize
        largest = self.linear // max(1, self.layers) // 3  # of a layer's numbers in its MLP's matrices
        return replace(self, weights=packed, dense=largest * self.itemsize)


def count(trainable: Trainable, counted: str = "model") -> Counts:
    """Count a model that is there.

    Args:
        trainable: The model with its method.
        counted: What it is, in words.
    """
    model: Any = trainable.model
    parameters = list(model.parameters())
    moving = {id(p): p for p in trainable.parameters().values()}
    beside = trainable.folder == "adapter" and not in_place(trainable)
    added = [p for p in moving.values() if beside]
    text = model.config.get_text_config()
    layers = len(decoder_layers(model))
    if is_encoder_decoder(model):
        layers += int(getattr(text, "num_layers", 0) or getattr(text, "encoder_layers", 0))
    return Counts(
        parameters=sum(p.numel() for p in parameters) - sum(p.numel() for p in added),
        weights=sum(map(_stored, parameters)) - sum(map(_stored, added)),
        trained=by_size([(p.numel(), p.element_size()) for p in moving.values()]),
        added=sum(map(_stored, added)),
        itemsize=model.dtype.itemsize,
        layers=layers,
        hidden=int(text.hidden_size),
        vocabulary=int(model.get_input_embeddings().weight.shape[0]),
        kept=kept_bytes(model),
        dense=dense_bytes(parameters),
        rates=count_rates(model),
        recomputes=bool(model.supports_gradient_checkpointing),
        linear=linear_numbers(model),
        folder=trainable.folder,
        moved=moved_numbers(trainable) if trainable.transforms else None,
        beside_state=transform_bytes(trainable),
        layerwise=trainable.layerwise,
        bare_head=bare_head(model),
        starts_as_base=trainable.starts_as_base,
        counted=counted,
    )


def linear_numbers(model: Any) -> int:
    """Numbers in matrices of linears inside the layers, the base's own."""
    linears: Iterator[Any] = (m for layer in decoder_layers(model) for m in layer.modules() if is_linear(m))
    return sum(int(m.weight.numel()) for m in linears if m.weight.ndim == 2)


def by_size(parameters: list[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    """Numbers of each parameter by their size.

    Example:
        >>> by_size([(6, 4), (2, 2), (1, 4)])
        {4: (6, 1), 2: (2,)}
    """
    sizes = dict.fromkeys(itemsize for _, itemsize in parameters)
    return {size: tuple(numel for numel, itemsize in parameters if itemsize == size) for size in sizes}


def in_place(trainable: Trainable) -> bool:
    """Whether what trains are the base's own parameters (biases, norms): nothing stands beside them.

    The names that methods give are the checkpoint's; those of the base's own parameters are the model's as well.
    """
    own = {id(p): name for name, p in trainable.model.named_parameters()}
    return all(own.get(id(p)) == name for name, p in trainable.parameters().items())


def _stored(parameter: Any) -> int:
    if isinstance(parameter, Quantized):
        return int(parameter.stored_bytes())
    return int(parameter.numel() * parameter.element_size())
