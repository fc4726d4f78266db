# SPDX-License-Identifier: Apache-2.0
"""A run's tensors in one stretch of addresses (`arena.cpp`): memory that steps of changing size do not break up.

The C library's allocator finds no use for much of what it gets back, as every step has other sizes: LoRA on the
built-in model held 256 MiB after 60 steps, of which 62 were tensors. Here it is 139 MiB, and a plan can tell it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from luthier.kernels.native import build

if TYPE_CHECKING:
    from collections.abc import Iterator


_opened: set[bool] = set()  # whether any run of this process has entered it


@lru_cache(maxsize=1)
def _found() -> tuple[ctypes.CDLL | None, str]:
    """The library, its addresses reserved, or None and why not."""
    if os.environ.get("LUTHIER_NATIVE") == "0":
        return None, "off (LUTHIER_NATIVE=0)"
    if sys.platform != "linux":
        return None, "off (needs Linux)"
    torch_folder = Path(torch.__file__).parent
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    flags = (abi, f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}", "-lc10")
    library, said = build.built(("arena.cpp",), flags, of=torch.__version__)
    if library is None:
        return None, said
    for name in ("arena_used", "arena_most"):
        getattr(library, name).restype = ctypes.c_size_t
    return (library, "on") if library.arena_open() else (None, "off (the system gives no addresses: see ulimit -v)")


def describe() -> str:
    """`on`, or why the C library's allocator serves instead."""
    return _found()[1]


def usable() -> bool:
    """Whether runs on this machine's processor have it; the first call compiles it, in a second."""
    return _found()[0] is not None


@contextmanager
def entered() -> Iterator[None]:
    """Inside, new tensors of 64 KiB and more stand in the stretch; tensors may outlive it.

    Nothing happens where it is not :func:`usable`. On leaving, pages that no tensor is on go back to the system.
    """
    library = _found()[0]
    if library is None:
        yield
        return
    _opened.add(True)
    library.arena_enter()
    try:
        yield
    finally:
        library.arena_leave()


def release() -> None:
    """Pages that no tensor is on go back to the system; a process that never had it does not build it for that."""
    if _opened and (library := _found()[0]) is not None:
        library.arena_release()


def used_bytes() -> tuple[int, int]:
    """Bytes of the tensors that stand there, and the most since pages were last released; zeros without it."""
    library = _found()[0]
    return (library.arena_used(), library.arena_most()) if library else (0, 0)
