# SPDX-License-Identifier: Apache-2.0
"""What a reference model says of the rows' scored tokens, on disk: computed once, read by every run that asks the same.

Rows are cut into groups in file order, whatever a run draws from them: the numbers of a row come from the same forward
pass each time, so they have the same bits, whichever run was first. A group is there whole or not at all: its numbers
are written and flushed before its mark, which is their checksum, so numbers that a full disk or an editor has cut off
are computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from luthier.core.errors import DataError
from luthier.core.home import home

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luthier.core.types import Tree
    from luthier.data.rows import Drawn

Ints = npt.NDArray[Any]


def groups_of(lengths: Ints, most: int) -> Ints:
    """Cut rows into groups of at most so many tokens, in file order; a longer row is a group of its own.

    Args:
        lengths: Tokens of each row.
        most: Tokens of a group.

    Returns:
        First row of each group, and the number of rows; int64.

    Example:
        >>> groups_of(np.array([5, 4, 9, 2, 30, 1]), 10).tolist()
        [0, 2, 3, 4, 5, 6]
    """
    starts, held = [0], 0
    for row, length in enumerate(lengths.tolist()):
        if held and held + length > most:
            starts.append(row)
            held = 0
        held += length
    return np.array([*starts, len(lengths)] if len(lengths) else [0], np.int64)


class ReferenceStore:
    """Log-probabilities of the reference, one float32 a scored token, in a folder of the cache.

    A row has a place for each token of its answers: which of them are scored, its tree tells.

    Args:
        facts: Everything that the numbers depend on: rows, weights, numbers of the pass, versions.
        rows: Whose tokens these are.
        most: Tokens of a group, see :func:`groups_of`.

    Raises:
        DataError: The cache cannot be written.
    """

    def __init__(self, facts: Mapping[str, str], rows: Drawn, most: int) -> None:
        words = json.dumps({**facts, "group": most}, sort_keys=True)
        self.folder = home() / "references" / hashlib.sha256(words.encode()).hexdigest()[:32]
        self.groups = groups_of(rows.lengths, most)
        self.ends = np.concatenate([[0], np.cumsum(rows.lengths - rows.prompts, dtype=np.int64)])
        self._shut: OSError | None = None  # why nothing can be written, where all that is there can be read
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._values = self._opened("logps.bin", 4 * int(self.ends[-1]))
            self._marks = self._opened("crc32.bin", 4 * (len(self.groups) - 1))
        except OSError as error:
            raise self._unwritable(error) from error

    def missing(self, rows: Ints) -> list[int]:
        """Groups that hold one of these rows and have no numbers yet, or other ones than were written."""
        wanted = np.unique(np.searchsorted(self.groups, rows, side="right") - 1)
        marks = np.frombuffer(os.pread(self._marks, 4 * (len(self.groups) - 1), 0), np.uint32)
        return [group for group in wanted.tolist() if not marks[group] or marks[group] != self._sum(group)]

    def _sum(self, group: int) -> int:
        first, end = (4 * int(self.ends[row]) for row in self.groups[group : group + 2])
        return _checksum(os.pread(self._values, end - first, first))

    def rows_of(self, group: int) -> range:
        """The rows of a group."""
        return range(int(self.groups[group]), int(self.groups[group + 1]))

    def write(self, group: int, logps: npt.NDArray[np.float32], counts: Sequence[int]) -> None:
        """Keep the numbers of one group.

        Args:
            group: Its place.
            logps: Of all scored tokens of its rows, in their order.
            counts: Scored tokens of each row.

        Raises:
            DataError: The disk is full, or a number is not finite.
        """
        rows = self.rows_of(group)
        if not np.isfinite(logps).all():
            where = f"the reference's log-probabilities of rows {rows.start} to {rows.stop - 1}"
            raise DataError(where, "numbers that are not finite", "finite ones", "check the reference model")
        first = int(self.ends[rows.start])
        block = np.zeros(int(self.ends[rows.stop]) - first, np.float32)
        for row, part in zip(rows, np.split(logps, np.cumsum(counts)[:-1]), strict=True):
            at = int(self.ends[row]) - first
            block[at : at + len(part)] = part
        written = block.tobytes()
        try:
            if self._shut:
                raise self._shut
            _written(self._values, written, 4 * first)
            os.fdatasync(self._values)
            _written(self._marks, np.uint32(_checksum(written)).tobytes(), 4 * group)
        except OSError as error:
            raise self._unwritable(error) from error

    def values(self, row: int, count: int) -> npt.NDArray[np.float32]:
        """The numbers of one row, one for each of its `count` scored tokens."""
        return np.frombuffer(os.pread(self._values, 4 * count, 4 * int(self.ends[row])), np.float32)

    def _opened(self, name: str, size: int) -> int:
        """Open a file of zeros, or one that is there; it is never made shorter."""
        try:
            file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            self._shut = error
            file = os.open(self.folder / name, os.O_RDONLY)
            if os.fstat(file).st_size < size:
                os.close(file)
                raise
            return file
        if os.fstat(file).st_size < size:
            os.truncate(file, size)
        return file

    def _unwritable(self, error: OSError) -> DataError:
        fix = "free some space, or set LUTHIER_HOME to a folder on another disk"
        return DataError(f"cache {self.folder}", f"cannot be written ({error.strerror or error})", "", fix)

    def __del__(self) -> None:
        for name in ("_values", "_marks"):
            if (file := self.__dict__.pop(name, None)) is not None:
                os.close(file)


def _checksum(block: bytes) -> int:
    return zlib.crc32(block) or 1  # 0 stands for a group without numbers


def _written(file: int, block: bytes, at: int) -> None:
    """Write all of it: a disk that is nearly full takes a part and says so only of the next one."""
    done = 0
    while done < len(block):
        done += os.pwrite(file, block[done:], at + done)


class Referenced:
    """Rows whose trees say what the reference says of them.

    Args:
        rows: As they are.
        store: Has the numbers of every row that is asked for.
    """

    def __init__(self, rows: Drawn, store: ReferenceStore) -> None:
        self.rows, self.store = rows, store
        self.lengths, self.scored, self.starts = rows.lengths, rows.scored, rows.starts
        self.judged, self.answers, self.prompts = rows.judged, rows.answers, rows.prompts

    def __len__(self) -> int:
        return len(self.rows)

    def tree(self, row: int) -> Tree:
        """Return one row; its segments carry the reference's log-probabilities."""
        tree = self.rows.tree(row)
        ends = np.cumsum([np.count_nonzero(segment.scored) for segment in tree.segments])
        parts = np.split(self.store.values(row, int(ends[-1])), ends[:-1])
        told = zip(tree.segments, parts, strict=True)
        return replace(tree, segments=tuple(replace(segment, reference=part) for segment, part in told))
