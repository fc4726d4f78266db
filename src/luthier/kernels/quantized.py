# SPDX-License-Identifier: Apache-2.0
"""Frozen matrices that are kept in few bits: a tensor that becomes numbers where it is multiplied, and is let go again.

    Blocks    4 bits a number: table[code] * absmax of its block (NF4, FP4); with double quantisation absmax is 8 bits;
              or 4 or 8 bits of whole numbers: (code - zero of its block) * absmax of its block (GPTQ, AWQ)
    Rows      8 bits a number: code * scale of its row (LLM.int8's weights)
    Quantized a tensor [N, K] of bfloat16 or float32 to whoever reads it; what autograd keeps of it are the bits

One product makes one dense copy, which lives as long as the product: once in the forward and once in the backward pass.
Nothing of the size of the base is ever held in 16 bits, and a gradient of the matrix does not exist.

Shapes: N outputs, K inputs, n = N K numbers, b numbers of a block.

References:
    Dettmers et al., QLoRA, arXiv 2305.14314, section 3 and appendix E (the values of NF4). Dettmers et al., LLM.int8(),
    arXiv 2208.07339, equation 1 (vector-wise scales; here of the weights alone, inputs stay as they are).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from luthier.kernels import native

IMPORTED_BYTES = 40 << 20  # what bitsandbytes' import takes of a process (45 MiB alone)
UNIT = 7.874015718698502e-3  # 1 / 127 as bitsandbytes writes it: the bits of a product depend on it


class Store(Protocol):
    """A matrix in few bits; it never changes."""

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The numbers, [N, K], in memory of their own."""

    def to(self, device: torch.device) -> Store:
        """The same on another device."""

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that it holds."""


class _Held:
    """What stores share: their tensors are their fields."""

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that it holds."""
        return tuple(value for value in self._values().values() if isinstance(value, torch.Tensor))

    def to(self, device: torch.device) -> Any:
        """The same on another device."""
        moved = {k: v.to(device) for k, v in self._values().items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)  # type: ignore[type-var]

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks(_Held):
    """Four bits (or eight) for each number, and one scale for each block of them.

    Attributes:
        shape: N and K.
        codes: Two in a byte, the first in its upper half, uint8 [ceil(n / 2)]; of 256 values one in a byte, [n].
        table: The 16 values (or 256), float32.
        block: b, even.
        kind: nf4 or fp4, where the codes are bitsandbytes' own.
        zeros: What is taken from a value of each block before it is scaled, float32 [ceil(n / b)].
        order: Where each column of the matrix stands in the codes, int64 [K]: GPTQ's `desc_act`.
        absmax: Scale of each block, float32 [ceil(n / b)]; with double quantisation its codes, uint8.
        levels: Double quantisation: the 256 values of these codes, float32.
        outer: Double quantisation: scale of each `group` codes, float32.
        offset: Double quantisation: what is added to each scale.
        group: Double quantisation: codes that share a scale.
    """

    shape: tuple[int, int]
    codes: torch.Tensor
    table: torch.Tensor
    block: int
    kind: str = ""
    zeros: torch.Tensor | None = None
    order: torch.Tensor | None = None
    absmax: torch.Tensor
    levels: torch.Tensor | None = None
    outer: torch.Tensor | None = None
    offset: float = 0.0
    group: int = 256

    def scales(self) -> torch.Tensor:
        """Scale of each block, float32."""
        if self.levels is None or self.outer is None:
            return self.absmax
        outer = self.outer.repeat_interleave(self.group)[: len(self.absmax)]
        return self.levels[self.absmax.long()] * outer + self.offset

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The numbers, [N, K]."""
        if self.codes.device.type == "cuda" and self.kind:
            return theirs_blocks(self, dtype)
        fits = dtype in (torch.float32, torch.bfloat16) and len(self.table) == 16 and native.usable(self.table)
        return _ordered(_dense_blocks(self, dtype), self) if fits else plain_blocks(self, dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows(_Held):
    """Eight bits for each number, and one scale for each row.

    Attributes:
        shape: N and K.
        codes: int8 [N, K].
        absmax: The largest size of a number in each row, float32 [N]: code 127.
    """

    shape: tuple[int, int]
    codes: torch.Tensor
    absmax: torch.Tensor

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The numbers, [N, K]."""
        if not (dtype in (torch.float32, torch.bfloat16) and native.usable(self.absmax)):
            return plain_rows(self, dtype)
        out = torch.empty(self.shape, dtype=dtype)
        pointers = (self.codes.data_ptr(), self.absmax.data_ptr(), out.data_ptr())
        native.share(native.function("dequantize_rows", dtype), *self.shape, *pointers, self.shape[1], UNIT)
        return out


def plain_blocks(store: Blocks, dtype: torch.dtype) -> torch.Tensor:
    """(table[code] - zero) * absmax of the block, in float32, rounded once; what :meth:`Blocks.dense` must equal."""
    count, codes = store.shape[0] * store.shape[1], store.codes
    if len(store.table) == 16:
        codes = torch.stack([codes >> 4, codes & 15], -1).flatten()[:count]
    values = store.table[codes.long()]
    if store.zeros is not None:
        values -= store.zeros.repeat_interleave(store.block)[:count]
    scales = store.scales().repeat_interleave(store.block)[:count]
    return _ordered((values * scales).to(dtype).view(store.shape), store)


def _ordered(dense: torch.Tensor, store: Blocks) -> torch.Tensor:
    return dense if store.order is None else dense.index_select(1, store.order)


def theirs_blocks(store: Blocks, dtype: torch.dtype) -> torch.Tensor:
    """The same by bitsandbytes, whose kernels are the fast ones on GPUs."""
    import bitsandbytes  # noqa: F401 - it registers the operations

    theirs: Any = torch.ops.bitsandbytes
    scales = store.absmax
    if store.levels is not None:
        scales = theirs.dequantize_blockwise(scales, store.outer, store.levels, store.group, torch.float32)
        scales = scales + store.offset
    found: torch.Tensor = theirs.dequantize_4bit(store.codes, scales, store.block, store.kind, store.shape, dtype)
    return found


def plain_rows(store: Rows, dtype: torch.dtype) -> torch.Tensor:
    """code * absmax / 127, in float32 and rounded once; what :meth:`Rows.dense` must equal."""
    return (store.codes * store.absmax[:, None] * UNIT).to(dtype)


class _Problem(ctypes.Structure):
    """`struct Blocks` of native/quantized.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in "codes table absmax zeros nested levels outer out".split()),
        *((name, ctypes.c_int64) for name in "count block group".split()),
        ("offset", ctypes.c_double),
    )


def _dense_blocks(store: Blocks, dtype: torch.dtype) -> torch.Tensor:
    out, blocks = torch.empty(store.shape, dtype=dtype), len(store.absmax)
    pointers = {"codes": store.codes, "table": store.table, "out": out}
    if store.zeros is not None:
        pointers["zeros"] = store.zeros
    if store.levels is not None and store.outer is not None:
        pointers |= {"nested": store.absmax, "levels": store.levels, "outer": store.outer}
    else:
        pointers["absmax"] = store.absmax
    problem = _Problem(
        **{name: tensor.data_ptr() for name, tensor in pointers.items()},
        count=out.numel(),
        block=store.block,
        group=store.group,
        offset=store.offset,
    )
    native.share(native.function("dequantize_blocks", dtype), blocks, store.block, ctypes.byref(problem))
    return out


class Quantized(torch.Tensor):
    """A frozen matrix in few bits that every operation reads as dense numbers of its type.

    Moved or cast, it stays in few bits (`model.to(...)`); transposed, it is a view. Any other operation gets the dense
    numbers, and nothing can write to it: a merged matrix is a new one.

    Args:
        store: The bits.
        dtype: What it becomes when it is read.
        transposed: Whether it is [K, N].
    """

    store: Store
    transposed: bool
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, store: Store, dtype: torch.dtype, transposed: bool = False) -> Quantized:
        """A tensor without memory of its own."""
        rows, columns = store.shape
        shape, strides = ((columns, rows), (1, columns)) if transposed else ((rows, columns), (columns, 1))
        device = store.tensors()[0].device
        made: Quantized = torch.Tensor._make_wrapper_subclass(cls, shape, strides, dtype=dtype, device=device)
        made.store, made.transposed = store, transposed
        return made

    def dense(self) -> torch.Tensor:
        """The numbers, in memory of their own."""
        found = self.store.dense(self.dtype)
        return found.T if self.transposed else found

    def stored_bytes(self) -> int:
        """Bytes of the bits, the scales and the tables."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.store.tensors())

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """A word, not the numbers."""
        return f"Quantized({type(self.store).__name__}, {tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Quantized:
        """Bits never change, so that copies share them."""
        copied = Quantized(self.store, self.dtype, self.transposed)
        found: Any = torch.nn.Parameter(copied, False) if isinstance(self, torch.nn.Parameter) else copied
        return memo.setdefault(id(self), found)

    def __tensor_flatten__(self) -> Any:
        """PyTorch asks whether this is here before it exchanges a parameter for a cast one; compilers call it."""
        raise NotImplementedError("a quantised matrix cannot be compiled")

    @staticmethod
    def __tensor_unflatten__(*_: Any) -> Any:
        """See above."""
        raise NotImplementedError("a quantised matrix cannot be compiled")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Views, casts and moves stay in few bits; all else is done with dense numbers."""
        kwargs = kwargs or {}
        if func in _KEEPS:
            return _KEEPS[func](*args, **kwargs)
        names = {told.name: value for told, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        if any(isinstance(names.get(told.name), Quantized) for told in func._schema.arguments if _is_written(told)):
            raise RuntimeError(f"{func}: a quantised matrix cannot be written to")
        args, kwargs = pytree.tree_map_only(Quantized, Quantized.dense, (args, kwargs))
        return func(*args, **kwargs)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _same(x: Quantized, **_: Any) -> Quantized:
    return Quantized(x.store, x.dtype, x.transposed)


def _turned(x: Quantized, *_: Any) -> Quantized:
    return Quantized(x.store, x.dtype, not x.transposed)


def _moved(x: Quantized, *, dtype: Any = None, device: Any = None, **_: Any) -> Any:
    wanted = dtype or x.dtype
    store = x.store if device is None else x.store.to(torch.device(device))
    return Quantized(store, wanted, x.transposed) if wanted.is_floating_point else x.dense().to(wanted)


_aten = torch.ops.aten
_KEEPS: dict[Any, Any] = {
    _aten.detach.default: _same,
    _aten.alias.default: _same,
    _aten.clone.default: _same,
    _aten.t.default: _turned,
    _aten.transpose.int: lambda x, a, b: _same(x) if a % 2 == b % 2 else _turned(x),
    _aten.permute.default: lambda x, order: _same(x) if order[0] % 2 == 0 else _turned(x),
    _aten._to_copy.default: _moved,
}
