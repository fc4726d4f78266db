# SPDX-License-Identifier: Apache-2.0
"""Tokens on disk: flat arrays that are mapped into memory, written once and then only read.

A store is a folder: ``tokens.bin`` (int32), ``scored.bin`` (bool), ``offsets.bin`` (int64, one more than rows),
``counts.bin`` (int32, scored tokens of each row), ``numbers.bin`` (int64), ``parts.bin`` (int32) and ``store.json``.
It is written beside its place and renamed, so at any instant it is there whole or not at all.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from luthier.core.errors import DataError
from luthier.core.types import Segment, Tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

ARRAYS: dict[str, type[np.generic]] = {
    "tokens": np.int32,
    "scored": np.bool_,
    "offsets": np.int64,
    "counts": np.int32,
    "numbers": np.int64,
    "parts": np.int32,
}
Array = npt.NDArray[Any]


class Writer:
    """Writes a store; nothing is seen of it until :meth:`commit`, and leaving without that removes it.

    Args:
        folder: Where the store will stand.

    Raises:
        DataError: The cache folder cannot be written, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = self.end = 0
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder.parent)
            self.writing = folder.parent / f".{folder.name}.{socket.gethostname()}.{os.getpid()}"
            shutil.rmtree(self.writing, ignore_errors=True)
            self.writing.mkdir()
            self._files = {name: (self.writing / f"{name}.bin").open("wb") for name in ARRAYS}
            self._put("offsets", [0])
        except OSError as error:
            raise _unwritable(folder.parent, error) from error

    def __enter__(self) -> Writer:
        return self

    def add(self, ids: Sequence[Array], scored: Sequence[Array], numbers: Sequence[int], part: int) -> None:
        """Append rows.

        Args:
            ids: Token ids of each row, int32 of shape [L].
            scored: bool of shape [L].
            numbers: Number of each row in its part.
            part: Index of the part.
        """
        if not ids:
            return
        ends = self.end + np.cumsum([len(row) for row in ids])
        try:
            self._put("tokens", np.concatenate(ids))
            self._put("scored", np.concatenate(scored))
            self._put("offsets", ends)
            self._put("counts", [int(np.count_nonzero(row)) for row in scored])
            self._put("numbers", numbers)
            self._put("parts", [part] * len(ids))
        except OSError as error:
            raise _unwritable(self.folder.parent, error) from error
        self.rows += len(ids)
        self.end = int(ends[-1])

    def commit(self, about: dict[str, Any]) -> None:
        """Make the store visible.

        Args:
            about: Kept in ``store.json``.
        """
        try:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
            sizes = {name: (self.writing / f"{name}.bin").stat().st_size for name in ARRAYS}
            with (self.writing / "store.json").open("w", encoding="utf-8") as told:
                json.dump(about | {"sizes": sizes}, told, ensure_ascii=False, indent=1)
                told.flush()
                os.fsync(told.fileno())
            self._place()
        except OSError as error:
            raise _unwritable(self.folder.parent, error) from error

    def _place(self) -> None:
        try:
            os.replace(self.writing, self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if whole(self.folder):
                return  # another process wrote the same store meanwhile: its content is the same, so it does as well
            broken = self.writing.with_name(f".broken{self.writing.name}")
            os.replace(self.folder, broken)
            os.replace(self.writing, self.folder)
            shutil.rmtree(broken, ignore_errors=True)

    def _put(self, name: str, values: Array | Sequence[int]) -> None:
        np.asarray(values, ARRAYS[name]).tofile(self._files[name])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self.writing, ignore_errors=True)


def whole(folder: Path) -> bool:
    """Whether a store is there, with every array of the size that was written."""
    try:
        about = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        return all((folder / f"{name}.bin").stat().st_size == size for name, size in about["sizes"].items())
    except (OSError, ValueError, KeyError):
        return False


class Store:
    """A store on disk, mapped into memory.

    Args:
        folder: Its folder.

    Attributes:
        about: What :meth:`Writer.commit` was given.
        tokens: int32, all rows one after the other.
        scored: bool of the same shape.
        offsets: int64 of shape [N + 1]; row i is ``tokens[offsets[i]:offsets[i + 1]]``.
        counts: Scored tokens of each row, int32 of shape [N].
        numbers: int64 of shape [N].
        parts: Index into ``about["parts"]``, int32 of shape [N].
    """

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        self.tokens, self.scored, self.offsets, self.counts, self.numbers, self.parts = (
            _mapped(folder / f"{name}.bin", kind) for name, kind in ARRAYS.items()
        )

    def __len__(self) -> int:
        return len(self.counts)


class Rows:
    """The rows of all sources, in order: what training draws from.

    Args:
        stores: One for each source.

    Attributes:
        lengths: Tokens of each row, int32 of shape [N].
        scored: Scored tokens of each row, int32 of shape [N].
        starts: First row of each source and the number of rows, int64 of shape [sources + 1].
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = tuple(stores)
        self.lengths = np.concatenate([np.diff(store.offsets).astype(np.int32) for store in stores])
        self.scored = np.concatenate([np.asarray(store.counts) for store in stores])
        self.starts = np.cumsum([0, *map(len, stores)])

    def __len__(self) -> int:
        return len(self.lengths)

    def tree(self, row: int) -> Tree:
        """Return one row as a tree of a single segment.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        source = int(np.searchsorted(self.starts, row, side="right")) - 1
        store, place = self.stores[source], row - int(self.starts[source])
        here = slice(int(store.offsets[place]), int(store.offsets[place + 1]))
        name = f"{store.about['parts'][store.parts[place]]}:{store.numbers[place]}"
        return Tree(segments=(Segment(ids=store.tokens[here], scored=store.scored[here]),), row=name)


def _mapped(file: Path, kind: type[np.generic]) -> Array:
    # as a plain array: a slice of np.memmap costs 1.6 us, this one 0.1
    return np.memmap(file, kind, mode="r").view(np.ndarray)


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left behind."""
    for left in folder.glob(f".*.{socket.gethostname()}.*"):
        process = left.name.rpartition(".")[2]
        if process.isdecimal() and not _alive(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name == "nt":  # there os.kill(pid, 0) would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _unwritable(folder: Path, error: OSError) -> DataError:
    fix = "free some space, or set LUTHIER_HOME to a folder on another disk"
    return DataError(f"cache {folder}", f"cannot be written ({error.strerror or error})", "", fix)
