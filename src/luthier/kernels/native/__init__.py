# SPDX-License-Identifier: Apache-2.0
"""Fused CPU loops in C++, built on this machine by its own compiler at their first use.

A 16-bit element-wise formula costs PyTorch three to eight passes over memory; here it is one. Nothing is shipped as a
binary: the sources beside this file are compiled once (6 to 7 seconds) for this very processor and kept in the cache
folder. Without a compiler, or with LUTHIER_NATIVE=0, the PyTorch forms run: same results, less speed, and
`summary.json` says which it was.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from luthier.kernels.native import build

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
# Shares below this many numbers are not worth a thread's wake-up (about 20 us).
_SHARE = 65536


@lru_cache(maxsize=1)
def _found() -> tuple[ctypes.CDLL | None, str]:
    """The library and how it was built, or None and why not."""
    if os.environ.get("LUTHIER_NATIVE") == "0":
        return None, "off (LUTHIER_NATIVE=0)"
    return build.load()


def describe() -> str:
    """In a word or a sentence: what the loops were built with, or why PyTorch's run instead."""
    return _found()[1]


def usable(*tensors: torch.Tensor) -> bool:
    """Whether the C++ forms can take these: all on the CPU, of one type, float32 or bfloat16, and not traced."""
    first = tensors[0]
    return (
        first.dtype in _TYPES
        and all(type(x) in (torch.Tensor, torch.nn.Parameter) for x in tensors)
        and all(x.dtype == first.dtype and x.device.type == "cpu" for x in tensors)
        and not torch.compiler.is_compiling()
        and _found()[0] is not None
    )


def multiplies_pairs() -> bool:
    """Whether the processor multiplies bfloat16 numbers two by two (AVX512_BF16), and the loops use it."""
    library = _found()[0]
    return library is not None and bool(library.has_pairs())


def function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    """An exported function, for a :func:`usable` type."""
    found: Callable[..., None] = getattr(_found()[0], f"{name}_{_TYPES[dtype]}")
    return found


def share(call: Callable[..., Any], count: int, each: int, *arguments: Any) -> None:
    """Call `call(*arguments, first, last)` over [0, count), in as many threads as PyTorch uses.

    Args:
        call: Works on its part alone; the result must not depend on the cut.
        count: How many rows, heads ...
        each: Numbers that one of them touches.
        arguments: Handed on.
    """
    threads = min(torch.get_num_threads(), count, max(1, count * each // _SHARE))
    if threads <= 1:
        call(*arguments, 0, count)
        return
    edges = [count * i // threads for i in range(threads + 1)]
    tasks = [_pool(threads).submit(call, *arguments, a, b) for a, b in pairwise(edges)]
    for task in tasks:
        task.result()


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that are kept: ctypes lets go of the interpreter lock while C++ runs."""
    return ThreadPoolExecutor(threads, thread_name_prefix="luthier-native")


# A forked child has the pool but not its threads: it would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
