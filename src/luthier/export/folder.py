# SPDX-License-Identifier: Apache-2.0
"""A result folder that is there whole or not at all: written beside its place, flushed, renamed."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from luthier.core.errors import RunFailed, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# A folder with one of these was written here and may be written again.
MARKS = ("merge_proof.json", "export_proof.json", "luthier.json")


@contextmanager
def new_folder(final: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield an empty folder that becomes `final` when the block ends well, and vanishes when it does not.

    Args:
        final: Where the result will stand.
        overwrite: Replace what an earlier export wrote there.
        inputs: Folders that are being read; they are never replaced.

    Raises:
        UserError: Something stands there.
        RunFailed: The disk is full, or may not be written.
    """
    _check_place(final, overwrite, inputs)
    writing = final.parent / f".{final.name}.writing-{os.getpid()}"
    shutil.rmtree(writing, ignore_errors=True)
    try:
        writing.mkdir(parents=True)
        yield writing
        _flush(writing)
        _swap(writing, final)
    except OSError as error:
        fix = "free some space, or choose another --output"
        raise RunFailed(str(final), f"could not be written ({error})", "nothing was left there", fix) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _check_place(final: Path, overwrite: bool, inputs: Sequence[Path]) -> None:
    where, place, allowed = f"output {final}", final.resolve(), "a new or empty folder"
    for given in (folder.resolve() for folder in inputs):
        if place == given or place in given.parents:
            raise UserError(where, f"it holds {given}, which is being read", allowed, "choose another folder")
    if final.exists() and not final.is_dir():
        raise UserError(where, "a file stands there", allowed, "choose another name")
    if not final.exists() or not any(final.iterdir()):
        return
    if not overwrite:
        raise UserError(where, "the folder is not empty", allowed, "choose another folder, or add --overwrite")
    if not any((final / mark).exists() for mark in MARKS):
        received = "something stands there that no export of Luthier wrote"
        raise UserError(where, received, "an earlier export, which --overwrite replaces", "choose another folder")


def _flush(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _swap(writing: Path, final: Path) -> None:
    old = final.parent / f".{final.name}.old-{os.getpid()}"
    if final.exists():
        final.rename(old)
    writing.rename(final)
    shutil.rmtree(old, ignore_errors=True)
