# SPDX-License-Identifier: Apache-2.0
"""Compile the sources once and load them; without a compiler, say why not."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from luthier.core.home import home

_HERE = Path(__file__).parent
_SOURCES = ("attention.cpp", "lowrank.cpp", "quantized.cpp", "rows.cpp", "slots.cpp")
_HEADERS = ("vector.h", "product.h", "room.h", "problem.h")
_FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC")
_LOOPS = ("-fno-math-errno",)  # no -ffast-math: a NaN must come out as a NaN, or a broken run would go on
# GCC and Clang on x86 know the first, Clang on ARM the second.
_NATIVE = ("-march=native", "-mcpu=native")
_POINTER, _LONG, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_SIGNATURES = {
    "rms_norm_forward": [_POINTER] * 4 + [_LONG, _REAL, _LONG, _LONG],
    "rms_norm_backward": [_POINTER] * 6 + [_LONG] * 4,
    "swiglu_forward": [_POINTER] * 3 + [_LONG] * 2,
    "swiglu_backward": [_POINTER] * 5 + [_LONG] * 2,
    "log_softmax_gradient": [_POINTER] * 3 + [_LONG] * 3,
    "slots_attention": [_POINTER] + [_LONG] * 2,
    "attention_forward": [_POINTER] + [_LONG] * 2,
    "attention_backward": [_POINTER] + [_LONG] * 2,
    "dequantize_blocks": [_POINTER] + [_LONG] * 2,
    "dequantize_rows": [_POINTER] * 3 + [_LONG, _REAL] + [_LONG] * 2,
}
# Only where the processor multiplies pairs of bfloat16.
_PAIRS = {"lowrank_forward": [_POINTER] + [_LONG] * 2, "lowrank_backward": [_POINTER] + [_LONG] * 2}


def load() -> tuple[ctypes.CDLL | None, str]:
    """The loops and the compiler's name, or None and the reason."""
    library, said = built(_SOURCES, _LOOPS)
    if library is None:
        return None, said
    for function, arguments in _SIGNATURES.items():
        for kind in ("float32", "bfloat16"):
            exported = getattr(library, f"{function}_{kind}")
            exported.argtypes, exported.restype = arguments, None
    for function, arguments in _PAIRS.items() if library.has_pairs() else ():
        exported = getattr(library, f"{function}_bfloat16")
        exported.argtypes, exported.restype = arguments, None
    return library, said


def built(sources: tuple[str, ...], flags: tuple[str, ...], of: str = "") -> tuple[ctypes.CDLL | None, str]:
    """A library of these sources and the compiler's name, or None and the reason.

    Args:
        sources: Names of files beside this one.
        flags: For the compiler, besides those that all have.
        of: What else the machine code depends on.
    """
    if os.name != "posix":
        return None, "off (needs Linux or macOS)"
    compiler = _compiler()
    if compiler is None:
        return None, "off (no C++ compiler found: install g++ or clang++, or set CXX)"
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
        name = version.stdout.splitlines()[0]
        path = _folder() / f"{_digest(sources, (name, of, *flags))}.so"
        library = _open(path) or _open(_compile(compiler, path, sources, flags))
    except subprocess.CalledProcessError as failed:
        said = (failed.stderr or "").strip().splitlines()
        return None, f"off ({compiler} failed: {said[-1] if said else failed.returncode})"
    except (OSError, AttributeError, IndexError, subprocess.TimeoutExpired) as failed:
        return None, f"off ({failed})"
    return (library, name) if library else (None, f"off ({path} cannot be loaded)")


def _open(path: Path) -> ctypes.CDLL | None:
    """The library where it is there and whole: to load a cut one would kill the process."""
    try:
        whole = path.with_suffix(".sha256").read_text() == _checksum(path)
        return ctypes.CDLL(str(path)) if whole else None
    except OSError:
        return None


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compiler() -> str | None:
    wanted = os.environ.get("CXX")
    return next((found for name in (wanted, "g++", "clang++", "c++") if name and (found := shutil.which(name))), None)


def _folder() -> Path:
    return home() / "native"


def _digest(sources: tuple[str, ...], words: tuple[str, ...]) -> str:
    """Of everything that the machine code depends on: a folder may be shared by different processors."""
    parts = [(_HERE / name).read_bytes() for name in (*sources, *_HEADERS)]
    parts += [word.encode() for word in (*words, platform.machine(), " ".join(_FLAGS), _processor_flags())]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _processor_flags() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(sorted(set(kept))) or platform.processor()


def _compile(compiler: str, path: Path, sources: tuple[str, ...], flags: tuple[str, ...]) -> Path:
    """Build beside its place and move it there, so that two processes may build at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    made = Path(name)
    try:
        for attempt, native in enumerate(_NATIVE):
            files = (str(_HERE / source) for source in sources)
            words = [compiler, *_FLAGS, native, "-o", str(made), *files, *flags]  # libraries stand last
            last = attempt == len(_NATIVE) - 1
            done = subprocess.run(words, capture_output=True, text=True, check=last, timeout=300)  # noqa: S603
            if not done.returncode:
                break
        path.with_suffix(".sha256").write_text(_checksum(made))
        return made.replace(path)
    finally:
        made.unlink(missing_ok=True)
