# SPDX-License-Identifier: Apache-2.0
"""Tokens on disk: flat arrays that are mapped into memory, written once and then only read.

A store is a folder: ``tokens.bin`` (int32), ``scored.bin`` (bool), ``offsets.bin`` (int64, one more than rows),
``counts.bin`` (int32, what there is to learn from in each row), ``numbers.bin`` (int64), ``parts.bin`` (int32) and
``store.json``.
Other arrays are there where the kind of the rows has a use for them:

    branched rows   a prompt and its answers one after the other (or no prompt, and texts that belong together):
                    ``answers.bin`` (int64, first answer of each row, and their number at the end),
                    ``answer_lengths.bin`` (int32, tokens of each answer), ``grades.bin`` and ``scores.bin`` (float64,
                    of each answer, or NaN)
    ``labels.bin``  int32, class of each token, -100 where it has none
    ``types.bin``   int8, which of two texts each token belongs to
    ``targets.bin`` float64, equally many numbers for each row

It is written beside its place and renamed, so at any instant it is there whole or not at all.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from luthier.core.errors import DataError

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
BRANCHES: dict[str, type[np.generic]] = {
    "answers": np.int64,
    "answer_lengths": np.int32,
    "grades": np.float64,
    "scores": np.float64,
}
TOLD: dict[str, type[np.generic]] = {"labels": np.int32, "types": np.int8, "targets": np.float64}
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One tree as it is stored: L tokens, those of a prompt first, then those of each of K answers.

    Attributes:
        ids: Token ids, int32 of shape [L].
        scored: Whether a token's log-probability is trained, bool of shape [L].
        answers: Tokens of each answer, K numbers; the prompt has the rest. None for a row that is one piece.
        grades: Of each answer.
        scores: Likewise; None where the data has none.
        labels: Class of each token, int32 of shape [L]; None where no token of such rows has one.
        types: Which text each token belongs to, int8 of shape [L]; None where that is never told.
        targets: What is true of the whole row.
        places: Where each token stands in the encoding of the whole row, int64 of shape [L], for rows that are read and
            not written; it is not stored, but made again where it is asked for (`data/originals.py`).
        cut: Tokens that it lost to ``max_length``.
        lost: Words of it that became no token; 1 for the first window of an answer that no window holds whole.
    """

    ids: Array
    scored: Array
    answers: tuple[int, ...] | None = None
    grades: tuple[float, ...] = ()
    scores: tuple[float, ...] | None = None
    labels: Array | None = None
    types: Array | None = None
    targets: tuple[float, ...] = ()
    places: Array | None = None
    cut: int = 0
    lost: int = 0

    @property
    def learned(self) -> int:
        """Scored tokens, labelled tokens, and one for targets: what there is to learn from (`Forest.num_scored`)."""
        labelled = 0 if self.labels is None else int(np.count_nonzero(self.labels >= 0))
        return int(np.count_nonzero(self.scored)) + labelled + bool(self.targets)


class Writer:
    """Writes a store; nothing is seen of it until :meth:`commit`, and leaving without that removes it.

    Args:
        folder: Where the store will stand.
        branched: Whether its rows have answers.
        told: Which of the other arrays its rows have: names of :data:`TOLD`.

    Raises:
        DataError: The cache folder cannot be written, or the disk is full.
    """

    def __init__(self, folder: Path, *, branched: bool = False, told: Sequence[str] = ()) -> None:
        self.folder, self.branched, self.told = folder, branched, tuple(told)
        self.arrays = ARRAYS | (BRANCHES if branched else {}) | {name: TOLD[name] for name in told}
        self.rows = self.end = self.answers = 0
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder.parent)
            self.writing = folder.parent / f".{folder.name}.{socket.gethostname()}.{os.getpid()}"
            shutil.rmtree(self.writing, ignore_errors=True)
            self.writing.mkdir()
            self._files = {name: (self.writing / f"{name}.bin").open("wb") for name in self.arrays}
            self._put("offsets", [0])
            if branched:
                self._put("answers", [0])
        except OSError as error:
            raise unwritable(folder.parent, error) from error

    def __enter__(self) -> Writer:
        return self

    def add(self, rows: Sequence[Row], numbers: Sequence[int], part: int) -> None:
        """Append rows.

        Args:
            rows: What they are; each has the arrays that the store was opened for.
            numbers: Number of each row in its part.
            part: Index of the part.
        """
        if not rows:
            return
        ends = self.end + np.cumsum([len(row.ids) for row in rows])
        try:
            self._put("tokens", np.concatenate([row.ids for row in rows]))
            self._put("scored", np.concatenate([row.scored for row in rows]))
            self._put("offsets", ends)
            self._put("counts", [row.learned for row in rows])
            self._put("numbers", numbers)
            self._put("parts", [part] * len(rows))
            if self.branched:
                self._put_answers(rows)
            for name in self.told:
                self._put(name, np.concatenate([getattr(row, name) for row in rows]))
        except OSError as error:
            raise unwritable(self.folder.parent, error) from error
        self.rows += len(rows)
        self.end = int(ends[-1])

    def _put_answers(self, rows: Sequence[Row]) -> None:
        many = [row.answers or () for row in rows]
        ends = self.answers + np.cumsum([len(answers) for answers in many])
        self._put("answers", ends)
        self._put("answer_lengths", [length for answers in many for length in answers])
        self._put("grades", [grade for row, of in zip(rows, many, strict=True) for grade in _each(row.grades, of)])
        self._put("scores", [score for row, of in zip(rows, many, strict=True) for score in _each(row.scores, of)])
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
            raise unwritable(self.folder.parent, error) from error

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
        counts: What there is to learn from in each row (:attr:`Row.learned`), int32 of shape [N].
        numbers: int64 of shape [N].
        parts: Index into ``about["parts"]``, int32 of shape [N].
        branches: The arrays of branched rows by name; empty where rows are one piece.
        told: The other arrays by name; targets have the shape [N, numbers of a row].
    """

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        self.tokens, self.scored, self.offsets, self.counts, self.numbers, self.parts = (
            _mapped(folder / f"{name}.bin", kind) for name, kind in ARRAYS.items()
        )
        there = self.about["sizes"]
        self.branches, self.told = (
            {name: _mapped(folder / f"{name}.bin", kind) for name, kind in some.items() if name in there}
            for some in (BRANCHES, TOLD)
        )
        if "targets" in self.told:
            self.told["targets"] = self.told["targets"].reshape(len(self), -1)

    def __len__(self) -> int:
        return len(self.counts)


def _each(values: tuple[float, ...] | None, answers: tuple[int, ...]) -> Sequence[float]:
    return values or [math.nan] * len(answers)


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


def unwritable(folder: Path, error: OSError) -> DataError:
    """Make the error of a cache folder that takes no more."""
    fix = "free some space, or set LUTHIER_HOME to a folder on another disk"
    return DataError(f"cache {folder}", f"cannot be written ({error.strerror or error})", "", fix)
