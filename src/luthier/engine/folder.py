# SPDX-License-Identifier: Apache-2.0
"""The run folder: who may write into it, and files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from luthier.core.errors import RecipeError, RunFailed
from luthier.engine.checkpoint import sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from luthier.data.ledger import Ledger
    from luthier.engine.distributed import Ranks
    from luthier.recipe import Resolved

# What a run writes; nothing else in its folder is ever removed.
FILES = ("summary.json", "ledger.json", "metrics.jsonl", "process.json")
FOLDERS = ("checkpoints", "adapter", "model", "tensorboard", "wandb")
_FIRST_LINE = "# luthier recipe, fingerprint "
_WRITING = ".writing-"


def check_folder(resolved: Resolved, *, resume: bool, overwrite: bool) -> Path:
    """Find out whether a run may write into its `output_dir`; nothing is changed.

    Raises:
        RecipeError: It holds another run, or something that no run wrote; or both or none of the two words fit.
    """
    folder = Path(resolved.recipe.output_dir)
    old = folder / "recipe.yaml"
    if resume and overwrite:
        raise RecipeError(
            "output_dir", "both --resume and --overwrite", "one of them", "decide what becomes of the old run"
        )
    if folder.exists() and not folder.is_dir():
        raise RecipeError("output_dir", f"{folder} is a file", "a folder", "choose another output_dir")
    first = _first_line(old)
    if not first.startswith(_FIRST_LINE):
        if foreign := [name for name in (old.name, *FILES, *FOLDERS) if (folder / name).exists()]:
            raise RecipeError(
                "output_dir",
                f"{folder} holds {foreign[0]}, which no run wrote",
                "an empty or new folder",
                "choose another",
            )
        return folder
    if resume and first.removeprefix(_FIRST_LINE)[:16] != resolved.fingerprint:
        raise RecipeError(
            "output_dir",
            f"{folder} holds a run of another recipe",
            "resuming needs the same recipe",
            f"compare with {old}, or choose another output_dir",
        )
    if not resume and not overwrite:
        raise RecipeError(
            "output_dir",
            f"{folder} holds a run already",
            "an empty or new folder",
            "add --resume to go on, --overwrite to replace it, or choose another output_dir",
        )
    return folder


def finished(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The summary of a run that is done, with its result beside it, or None."""
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    there = any((folder / name).is_dir() for name in ("adapter", "model"))
    return summary if there and summary.get("fingerprint") == fingerprint else None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder, and inside keep other processes from training into it.

    The lock is the system's: it is gone with the process, also after `kill -9`.

    Raises:
        RecipeError: It cannot be made or written, or another process is training there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise RecipeError(
            "output_dir",
            f"{folder} cannot be written ({error.strerror})",
            "a folder that can be written",
            "choose another",
        ) from None
    with lock:
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RecipeError(
                    "output_dir",
                    f"another process is training into {folder}",
                    "one at a time",
                    "wait, or choose another",
                ) from None
        for rest in folder.glob(f"{_WRITING}*"):
            shutil.rmtree(rest, ignore_errors=True)
        yield


@contextmanager
def entered(resolved: Resolved, ranks: Ranks, *, resume: bool, overwrite: bool) -> Iterator[dict[str, Any] | None]:
    """Check the folder of a run and hold it, on rank 0 alone; the others wait for its word.

    Yields:
        The summary of the run, where it is resumed and finished already, or None.

    Raises:
        RecipeError: As :func:`check_folder` and :func:`held`; the other ranks get a RunFailed.
    """
    folder = Path(resolved.recipe.output_dir)
    if ranks.first:
        check_folder(resolved, resume=resume, overwrite=overwrite)
    with held(folder) if ranks.first else nullcontext():
        yield ranks.from_first(lambda: finished(folder, resolved.fingerprint) if resume else None)


def begin(resolved: Resolved, ledgers: Iterable[Ledger], ranks: Ranks, *, resume: bool) -> None:
    """Write what a run begins with, its recipe and its ledgers; rank 0 does.

    Raises:
        RunFailed: The disk is full or not writable.
    """
    folder = Path(resolved.recipe.output_dir)
    if not ranks.first:
        return
    if not resume or not (folder / "recipe.yaml").exists():
        clear(folder)
    write_text(folder / "recipe.yaml", resolved.to_yaml())
    write_json(folder / "ledger.json", {ledger.which: ledger.to_json() for ledger in ledgers})


def clear(folder: Path) -> None:
    """Remove what an earlier run wrote; what marks the folder as a run goes last: a kill before locks nobody out."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "recipe.yaml").unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all.

    Raises:
        RunFailed: The disk is full or not writable.
    """
    writing = path.with_name(f"{_WRITING}{path.name}")
    try:
        writing.write_text(text, encoding="utf-8")
        sync(writing)
        writing.replace(path)
    except OSError as error:
        writing.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def write_json(path: Path, tree: Any) -> None:
    """Write JSON, whole or not at all.

    Raises:
        RunFailed: The disk is full or not writable.
    """
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def finish(folder: Path, name: str, save: Callable[[Path], None], summary: dict[str, Any], ranks: Ranks) -> None:
    """Write a run's result and then its summary; rank 0 does, and the others wait for it.

    Args:
        folder: The run's.
        name: `adapter` or `model`.
        save: Writes the result into an empty folder.
        summary: Contents of summary.json.
        ranks: Who trained.

    Raises:
        RunFailed: The disk is full or not writable.
    """
    if ranks.first:
        write_result(folder / name, save)
        write_json(folder / "summary.json", summary)
    ranks.wait()


def write_result(final: Path, save: Callable[[Path], None]) -> None:
    """Write the result beside its final place, then rename: a half-written one is never seen.

    Args:
        final: `adapter/` or `model/` in the run's folder.
        save: Writes it into an empty folder.

    Raises:
        RunFailed: The disk is full or not writable.
    """
    writing = final.with_name(f"{_WRITING}{final.name}")
    shutil.rmtree(writing, ignore_errors=True)
    try:
        writing.mkdir()
        save(writing)
        for file in writing.rglob("*"):
            sync(file)
        shutil.rmtree(final, ignore_errors=True)
        writing.rename(final)
        sync(final.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(writing, ignore_errors=True)
        raise _unwritable(final, error) from error


def _unwritable(path: Path, error: Exception) -> RunFailed:
    reason = getattr(error, "strerror", None) or error
    return RunFailed(
        str(path),
        f"could not be written ({reason})",
        "checkpoints are whole",
        "free some space and go on with --resume",
    )


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline()
    except OSError:
        return ""
