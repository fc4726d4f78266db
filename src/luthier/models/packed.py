# SPDX-License-Identifier: Apache-2.0
"""GPTQ's and AWQ's files: codes in 32-bit words, read without the libraries that wrote them.

    GPTQ    qweight [K b / 32, N], qzeros [G, N b / 32], scales [G, N], g_idx [K]: the group of each column of W
    AWQ     qweight [K, N b / 32], qzeros [G, N b / 32], scales [G, N]; the eight codes of a word in an order of its own

transformers reads both through gptqmodel, which is compiled for minutes and wants other versions of torch. Here its
plug-in for quantisers puts layers into the skeleton that have just these tensors, for the layers that have them in the
checkpoint; `models.quantized` makes matrices in few bits of them. A weight is (code - zero) * scale.

References:
    Frantar et al., GPTQ, arXiv 2210.17323. Lin et al., AWQ, arXiv 2306.00978. Both layouts are those of their authors'
    code, which AutoGPTQ, gptqmodel and vLLM share.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from luthier.core.errors import ModelError
from luthier.kernels.quantized import Blocks

PACKED = ("gptq", "awq")
_NAME = "luthier_packed"
_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)  # which column the i-th code of a word belongs to


def packed_words(told: Any, where: str) -> dict[str, Any]:
    """A checkpoint's `quantization_config` as ours: which layout, how many bits.

    Args:
        told: The checkpoint's.
        where: The model, for errors.

    Raises:
        ModelError: A layout or a number of bits that is not read here.
    """
    given = dict(told if isinstance(told, dict) else told.to_dict())
    layout, bits = str(given.get("quant_method")), given.get("bits")
    variant = given.get("checkpoint_format") or "gptq" if layout == "gptq" else given.get("version") or "gemm"
    known = {"gptq": ("gptq", "gptq_v2"), "awq": ("gemm",)}[layout]
    if variant not in known or bits not in ((4, 8) if layout == "gptq" else (4,)):
        received = f"a {layout} checkpoint of {bits} bits in the layout {variant!r}"
        allowed = f"{layout} of 4{' or 8' * (layout == 'gptq')} bits in {' or '.join(known)}"
        raise ModelError(where, received, allowed, "name the 16-bit model, with model.quantization: nf4")
    return {"quant_method": _NAME, "layout": layout, "bits": bits, "one_less": variant == "gptq"}


@register_quantization_config(_NAME)
class PackedConfig(QuantizationConfigMixin):
    """What :func:`packed_words` gives, as transformers hands it on."""

    def __init__(self, **words: Any) -> None:
        for name, value in words.items():
            setattr(self, name, value)


@register_quantizer(_NAME)
class PackedQuantizer(HfQuantizer):
    """Puts the layers into a skeleton that a packed checkpoint has tensors for."""

    quantization_config: Any
    is_trainable = True

    def is_serializable(self) -> bool:
        """Only adapters are written."""
        return False

    def get_new_dtype(self, *_: Any, **__: Any) -> None:
        """Keep every tensor as the file has it: scales would lose bits; the model is cast when it is read."""

    def _process_model_before_weight_loading(self, model: Any, **words: Any) -> None:
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for path in words["checkpoint_files"]:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a dict
                    name, _, leaf = key.rpartition(".")
                    shapes.setdefault(name, {})[leaf] = tuple(file.get_slice(key).get_shape())
        for name, tensors in shapes.items():
            if "qweight" in tensors:
                model.set_submodule(name, PackedLinear(model.get_submodule(name), tensors, self.quantization_config))


class PackedLinear(nn.Module):
    """A linear as a file has it; it is never run.

    Args:
        plain: The skeleton's linear.
        shapes: Of the file's tensors.
        told: :class:`PackedConfig`.
    """

    def __init__(self, plain: nn.Module, shapes: dict[str, tuple[int, ...]], told: Any) -> None:
        super().__init__()
        linear: Any = plain
        self.inputs, self.outputs, self.told = int(linear.in_features), int(linear.out_features), told
        with torch.device("meta"):
            for leaf, shape in shapes.items():
                kind = torch.float16 if leaf in ("scales", "bias") else torch.int32
                self.register_buffer(leaf, torch.empty(shape, dtype=kind))

    def store(self) -> Blocks:
        """Its matrix in few bits."""
        bits, awq, buffers = self.told.bits, self.told.layout == "awq", dict(self.named_buffers())
        order = _AWQ if awq else tuple(range(32 // bits))
        codes_NK = _unpacked(buffers["qweight"], bits, order, int(awq)).T
        zeros_NG = _unpacked(buffers["qzeros"], bits, order, 1).T.float() + self.told.one_less
        scales_NG = buffers["scales"].T.float()
        groups, place = buffers.get("g_idx"), None
        block = self.inputs // scales_NG.shape[1]
        if groups is not None and not torch.equal(groups.long(), torch.arange(self.inputs) // block):
            sorted_K = groups.long().argsort(stable=True)  # columns of one group beside each other
            codes_NK, place = codes_NK[:, sorted_K], sorted_K.argsort()
        flat = codes_NK.contiguous().flatten()
        return Blocks(
            shape=(self.outputs, self.inputs),
            codes=flat if bits == 8 else flat[::2] << 4 | flat[1::2],
            table=torch.arange(2**bits).float(),
            block=block,
            zeros=zeros_NG.contiguous().flatten(),
            order=place,
            absmax=scales_NG.contiguous().flatten(),
        )


def _unpacked(words: torch.Tensor, bits: int, order: tuple[int, ...], dim: int) -> torch.Tensor:
    """The codes of 32-bit words, uint8; `dim` is the axis along which several stand in one word."""
    mask = 2**bits - 1
    codes = torch.stack([(words >> bits * i) & mask for i in range(32 // bits)], dim + 1).to(torch.uint8)
    places = torch.tensor(order).argsort()
    return codes.index_select(dim + 1, places.to(codes.device)).flatten(dim, dim + 1)
