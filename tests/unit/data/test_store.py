# SPDX-License-Identifier: Apache-2.0
"""A store is there whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.data import store
from luthier.data.rows import Rows
from luthier.data.store import Row, Store, Writer, whole

ROWS = [np.arange(n, dtype=np.int32) for n in (3, 1, 5)]
SCORED = [np.arange(n) > 0 for n in (3, 1, 5)]


def rows_of(ids=ROWS, scored=SCORED) -> list[Row]:
    return [Row(ids=one, scored=of) for one, of in zip(ids, scored, strict=True)]


def write(folder) -> None:
    with Writer(folder) as writer:
        writer.add(rows_of()[:2], [1, 2], 0)
        writer.add(rows_of()[2:], [9], 1)
        writer.commit({"parts": ["one", "two"]})


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "x")
    rows = Rows([Store(tmp_path / "x")] * 2)
    assert len(rows) == 6
    assert rows.lengths.tolist() == [3, 1, 5] * 2
    assert rows.scored.tolist() == [2, 0, 4] * 2
    for place in range(6):
        tree = rows.tree(place)
        assert np.array_equal(tree.segments[0].ids, ROWS[place % 3])
        assert np.array_equal(tree.segments[0].scored, SCORED[place % 3])
    assert [rows.tree(i).row for i in range(3)] == ["one:1", "one:2", "two:9"]


def test_rows_are_read_only_and_mapped(tmp_path):
    write(tmp_path / "x")
    ids = Rows([Store(tmp_path / "x")]).tree(0).segments[0].ids
    assert type(ids) is np.ndarray
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


def test_nothing_is_seen_without_commit(tmp_path):
    with Writer(tmp_path / "x") as writer:
        writer.add(rows_of(), [1, 2, 3], 0)
        assert not whole(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(tmp_path):
    def failing() -> None:
        with Writer(tmp_path / "x") as writer:
            writer.add(rows_of(), [1, 2, 3], 0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from luthier.data import store
when, folder = sys.argv[1], Path(sys.argv[2])
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if when in ("fsync", "replace"):
    setattr(store.os, when, die)
if when == "json":
    store.json.dump = die
with store.Writer(folder) as writer:
    row = store.Row(ids=np.arange(1000, dtype=np.int32), scored=np.ones(1000, bool))
    writer.add([row] * 50, range(50), 0)
    if when == "add":
        die()
    writer.commit({"parts": ["one"]})
"""


@pytest.mark.faults
@pytest.mark.skipif(os.name == "nt", reason="kill -9")
@pytest.mark.parametrize("when", ["add", "fsync", "json", "replace"])
def test_a_kill_leaves_no_half_store_and_the_next_one_cleans_up(tmp_path, when):
    folder = tmp_path / "x"
    done = subprocess.run([sys.executable, "-c", KILLED, when, str(folder)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not whole(folder)
    assert not folder.exists()
    assert len(list(tmp_path.iterdir())) == 1
    write(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert len(Store(folder)) == 3


def test_what_living_processes_write_is_left_alone(tmp_path):
    other = tmp_path / f".y.{socket.gethostname()}.{os.getppid()}"
    elsewhere = tmp_path / ".y.another-machine.1"
    other.mkdir()
    elsewhere.mkdir()
    write(tmp_path / "x")
    assert other.exists()
    assert elsewhere.exists()


def test_two_processes_write_the_same_store(tmp_path):
    with Writer(tmp_path / "x") as slow:
        slow.add(rows_of(), [1, 2, 3], 0)
        slow.writing.rename(tmp_path / "aside")
        write(tmp_path / "x")
        (tmp_path / "aside").rename(slow.writing)
        slow.commit({"parts": ["one"]})
    assert len(Store(tmp_path / "x")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", [*store.ARRAYS, "store"])
def test_a_damaged_store_is_not_whole(tmp_path, name):
    write(tmp_path / "x")
    file = next((tmp_path / "x").glob(f"{name}.*"))
    file.write_bytes(file.read_bytes()[:-1])
    assert not whole(tmp_path / "x")
    write(tmp_path / "x")
    assert whole(tmp_path / "x")


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Writer(tmp_path / "x") as writer:
        monkeypatch.setattr(writer, "_put", full)
        with pytest.raises(
            DataError, match=r"cannot be written \(No space left on device\); free some space, or set LUTH"
        ):
            writer.add(rows_of(), [1, 2, 3], 0)
