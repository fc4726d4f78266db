# SPDX-License-Identifier: Apache-2.0
"""From the quantised layers of other libraries to matrices in few bits: one function for each of their kinds.

Layers are known by the names of their classes, so that no library is imported that did not load the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import ModelError
from luthier.kernels.quantized import Blocks, Rows
from luthier.models.packed import PackedLinear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from luthier.kernels.quantized import Store

# transformers' word for what quantised a checkpoint -> the packages by which it reads them.
KINDS: dict[str, tuple[str, ...]] = {
    "bitsandbytes": ("bitsandbytes", "accelerate"),
    "compressed-tensors": ("compressed_tensors",),
    "gptq": (),  # read here: `models.packed`
    "awq": (),
}
# Those that transformers makes dense while it reads them: experts in one parameter, numbers that only some GPUs have.
DENSE_AGAIN = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}
KINDS |= dict.fromkeys(DENSE_AGAIN, ())


def dense_words(kind: str) -> Any:
    """What tells transformers to make a checkpoint of a `DENSE_AGAIN` kind dense."""
    import transformers

    return getattr(transformers, DENSE_AGAIN[kind])(dequantize=True)


def store_of(module: nn.Module) -> Store | None:
    """The matrix of a quantised layer; None of any other module."""
    kind = type(module).__name__
    if kind == "Linear4bit":
        return _four_bits(module.weight)
    if kind == "Linear8bitLt":
        weight: Any = module.weight
        rows, columns = weight.shape
        return Rows(shape=(rows, columns), codes=weight.data, absmax=weight.SCB.float())
    if getattr(module, "quantization_scheme", None) is not None and hasattr(module, "quantization_status"):
        return _compressed(module)
    if isinstance(module, PackedLinear):
        return module.store()
    return None


def _four_bits(weight: Any) -> Blocks:
    """bitsandbytes' Params4bit."""
    state = weight.quant_state
    rows, columns = state.shape
    nested: dict[str, Any] = {}
    if state.nested:
        outer = state.state2
        nested = {"levels": outer.code.float(), "outer": outer.absmax.float(), "group": outer.blocksize}
        nested["offset"] = float(state.offset)
    return Blocks(
        shape=(rows, columns),
        codes=weight.data.view(torch.uint8).flatten(),
        table=state.code.float(),
        block=state.blocksize,
        kind=state.quant_type,
        absmax=state.absmax if nested else state.absmax.float(),
        **nested,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreign:
    """A matrix that its own library makes dense.

    Attributes:
        shape: N and K.
        state: The tensors that it is kept in, by the library's names.
        decode: Makes [N, K] of them.
    """

    shape: tuple[int, int]
    state: Mapping[str, torch.Tensor]
    decode: Any

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The numbers, [N, K]."""
        with torch.no_grad():
            found: torch.Tensor = self.decode(dict(self.state)).to(dtype)
        return found

    def to(self, device: torch.device) -> Foreign:
        """The same on another device."""
        moved = {name: tensor.to(device) for name, tensor in self.state.items()}
        return Foreign(shape=self.shape, state=moved, decode=self.decode)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that it holds."""
        return tuple(self.state.values())


def _compressed(module: Any) -> Foreign | None:
    """A layer of compressed-tensors.

    Raises:
        ModelError: Its inputs are quantised too: a training forward pass would compute something else.
    """
    from compressed_tensors.compressors.base import BaseCompressor

    scheme = module.quantization_scheme
    if scheme.weights is None or str(module.quantization_status.value) != "compressed":
        return None
    if scheme.input_activations is not None or scheme.output_activations is not None:
        received = "a compressed-tensors checkpoint whose activations are quantised as well (W8A8 and the like)"
        raise ModelError("model", received, "quantised weights alone (W4A16, W8A16)", "name the 16-bit model")
    compressor = BaseCompressor.get_value_from_registry(scheme.format.value)
    state = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    state = {name: tensor.detach() for name, tensor in state.items() if name != "bias"}

    def decode(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = compressor.decompress(tensors, scheme)["weight"]
        return found

    return Foreign(shape=(module.out_features, module.in_features), state=state, decode=decode)
