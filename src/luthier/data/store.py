# SPDX-License-Identifier: Apache-2.0
"""Tokens on disk: flat arrays that are mapped into memory, written once and then only read.

A store is a folder: ``tokens.bin`` (int32), ``scored.bin`` (bool), ``offsets.bin`` (int64, one more than rows),
``counts.bin`` (int32, scored tokens of each row), ``numbers.bin`` (int64), ``parts.bin`` (int32) and ``store.json``.
Where rows are judged, each is a prompt and its answers one after the other, and there are four more: ``answers.bin``
(int64, first answer of each row, and their number at the end), ``answer_lengths.bin`` (int32, tokens of each answer),
``grades.bin`` and ``scores.bin`` (float64, of each answer; NaN where the data has no scores).
It is written beside its place and renamed, so at any instant it is there whole or not at all.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from luthier.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from luthier.data.branches import Grown

ARRAYS: dict[str, type[np.generic]] = {
    "tokens": np.int32,
    "scored": np.bool_,
    "offsets": np.int64,
    "counts": np.int32,
    "numbers": np.int64,
    "parts": np.int32,
}
JUDGED_ARRAYS: dict[str, type[np.generic]] = {
    "answers": np.int64,
    "answer_lengths": np.int32,
    "grades": np.float64,
    "scores": np.float64,
}
Array = npt.NDArray[Any]


class Writer:
    """Writes a store; nothing is seen of it until :meth:`commit`, and leaving without that removes it.

    Args:
        folder: Where the store will stand.
        judged: Whether its rows are judged answers.

    Raises:
        DataError: The cache folder cannot be written, or the disk is full.
    """

    def __init__(self, folder: Path, *, judged: bool = False) -> None:
        self.folder = folder
        self.arrays = ARRAYS | JUDGED_ARRAYS if judged else ARRAYS
        self.rows = self.end = self.answers = 0
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder.parent)
            self.writing = folder.parent / f".{folder.name}.{socket.gethostname()}.{os.getpid()}"
            shutil.rmtree(self.writing, ignore_errors=True)
            self.writing.mkdir()
            self._files = {name: (self.writing / f"{name}.bin").open("wb") for name in self.arrays}
            self._put("offsets", [0])
            if judged:
                self._put("answers", [0])
        except OSError as error:
            raise _unwritable(folder.parent, error) from error

    def __enter__(self) -> Writer:
        return self

    def add(
        self,
        ids: Sequence[Array],
        scored: Sequence[Array],
        numbers: Sequence[int],
        part: int,
        *,
        judged: Sequence[Grown] = (),
    ) -> None:
        """Append rows.

        Args:
            ids: Token ids of each row, int32 of shape [L].
            scored: bool of shape [L].
            numbers: Number of each row in its part.
            part: Index of the part.
            judged: The same rows with their answers, for a store of judged rows.
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
            if judged:
                self._put_judged(judged)
        except OSError as error:
            raise _unwritable(self.folder.parent, error) from error
        self.rows += len(ids)
        self.end = int(ends[-1])

    def _put_judged(self, rows: Sequence[Grown]) -> None:
        ends = self.answers + np.cumsum([len(row.answers) for row in rows])
        self._put("answers", ends)
        self._put("answer_lengths", [length for row in rows for length in row.answers])
        self._put("grades", [grade for row in rows for grade in row.grades])
        self._put("scores", [score for row in rows for score in row.scores or [math.nan] * len(row.answers)])
        self.answers = int(ends[-1])

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
            sizes = {name: (self.writing / f"{name}.bin").stat().st_size for name in self.arrays}
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

    def _put(self, name: str, values: Array | Sequence[float]) -> None:
        np.asarray(values, self.arrays[name]).tofile(self._files[name])

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
        judged: The arrays of judged rows by name; empty where rows are plain.
    """

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        self.tokens, self.scored, self.offsets, self.counts, self.numbers, self.parts = (
            _mapped(folder / f"{name}.bin", kind) for name, kind in ARRAYS.items()
        )
        there = JUDGED_ARRAYS if "answers" in self.about["sizes"] else {}
        self.judged = {name: _mapped(folder / f"{name}.bin", kind) for name, kind in there.items()}

    def __len__(self) -> int:
        return len(self.counts)


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
