# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not there: a temporary folder, fsync, a manifest with checksums, a rename.

    checkpoints/step-40/
        parameters.safetensors   every trained parameter, by name (float32 masters where the model is 16-bit)
        optimizer.safetensors    the optimiser's tensors
        state.json               the optimiser's numbers, the loop's counters, random states, versions
        manifest.json            size and SHA-256 of each file; written last

No pickle is ever written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from luthier.core.errors import RunFailed

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = ("parameters.safetensors", "optimizer.safetensors", "state.json")
PREFIX = "step-"
TEMPORARY = ".writing-"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint holds besides tensors.

    Attributes:
        progress: The loop's counters.
        random: States of torch's generators, of rank 0.
        about: What it was made with: versions, threads, device, the data's digest.
        others: The same as `random` of the other ranks, 1 and up.
    """

    progress: dict[str, Any]
    random: dict[str, str]
    about: dict[str, Any]
    others: tuple[dict[str, str], ...] = ()


def save_checkpoint(
    folder: Path,
    step: int,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    saved: Saved,
    moved: dict[str, torch.nn.Parameter] | None = None,
) -> Path:
    """Write `step-<step>` into a run's `checkpoints/`.

    Args:
        folder: The run's `checkpoints` folder.
        step: Optimiser steps done.
        parameters: What trains, by name.
        optimizer: Its state is kept to the bit.
        saved: Everything else; anything that JSON holds exactly.
        moved: What the optimiser moves, by the same names, where that is not the parameters themselves.

    Raises:
        RunFailed: The disk is full or not writable; what was saved before stays.
    """
    names = {id(parameter): name for name, parameter in (moved or parameters).items()}
    tensors, numbers = _split(optimizer, names)
    final, writing = folder / f"{PREFIX}{step}", folder / f"{TEMPORARY}{step}-{os.getpid()}"
    state = {"step": step, "optimizer": numbers, "progress": saved.progress, "random": saved.random}
    state |= {"others": saved.others} if saved.others else {}
    try:
        writing.mkdir(parents=True, exist_ok=True)
        save_file({n: p.detach().contiguous() for n, p in parameters.items()}, writing / "parameters.safetensors")
        save_file(tensors, writing / "optimizer.safetensors")
        (writing / "state.json").write_text(json.dumps(state | {"about": saved.about}))
        manifest = {file.name: _sum(file) for file in sorted(writing.iterdir())}
        (writing / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for file in writing.iterdir():
            sync(file)
        sync(writing)
        if final.exists():  # a broken one of an earlier attempt: whole ones are resumed from, not written again
            shutil.rmtree(final)
        writing.rename(final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(writing, ignore_errors=True)
        raise RunFailed(
            f"checkpoint {final}",
            f"could not be written ({error})",
            "checkpoints written before are untouched",
            "free some space and go on with --resume",
        ) from error
    return final


def prune(folder: Path, step: int, keep: int, best: int = 0) -> None:
    """Remove all but the newest `keep` checkpoints up to `step`, and the best one.

    Later ones can only be broken (the run went on from an earlier one): they do not count, and are replaced when the
    run gets there.
    """
    past = [path for path in find_checkpoints(folder) if step_of(path) <= step]
    for old in past[:-keep]:
        if step_of(old) != best:
            shutil.rmtree(old, ignore_errors=True)  # one that cannot be removed now is removed after the next save


def sweep(folder: Path) -> None:
    """Remove what interrupted writes left behind."""
    for rest in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(rest, ignore_errors=True)


def find_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints by step, oldest first, whole or not."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint was written after."""
    return int(path.name.removeprefix(PREFIX))


def newest_whole(folder: Path, say: Callable[[str], None] = lambda _: None) -> Path | None:
    """The newest checkpoint whose checksums hold, or None where none was ever written.

    Args:
        folder: The run's `checkpoints` folder.
        say: Receives a line about each newer one that is passed over.

    Raises:
        RunFailed: There are checkpoints, and none is whole: beginning anew without a word would hide the loss.
    """
    found = find_checkpoints(folder)
    for path in reversed(found):
        fault = fault_of(path)
        if not fault:
            return path
        say(f"checkpoint {path} is broken ({fault}); it is passed over")
    if found:
        raise RunFailed(
            f"checkpoints in {folder}",
            f"none of {len(found)} is whole",
            "at least one with all its checksums",
            "restore them from a copy, or begin anew with --overwrite",
        )
    return None


def fault_of(path: Path) -> str:
    """What keeps a checkpoint from being whole, or nothing."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for name in FILES:
            if _sum(path / name) != manifest.get(name):
                return f"{name} has another checksum than when it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"its manifest or a file cannot be read: {error}"
    return ""


def load_checkpoint(
    path: Path,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    moved: dict[str, torch.nn.Parameter] | None = None,
) -> Saved:
    """Put a checkpoint back into parameters and optimiser (arguments as for :func:`save_checkpoint`).

    Returns:
        The rest; :func:`set_random_state` is for the caller, right before the first step.

    Raises:
        RunFailed: The checkpoint does not hold these parameters.
    """
    load_parameters(path, parameters)
    state = json.loads((path / "state.json").read_text())
    _join(optimizer, moved or parameters, load_file(path / "optimizer.safetensors"), state["optimizer"])
    others = tuple(state.get("others", ()))
    return Saved(progress=state["progress"], random=state["random"], about=state["about"], others=others)


@torch.no_grad()
def load_parameters(path: Path, parameters: dict[str, torch.nn.Parameter]) -> None:
    """Put a checkpoint's parameters back.

    Raises:
        RunFailed: The checkpoint does not hold these parameters.
    """
    saved = load_file(path / "parameters.safetensors")
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in saved.items()}:
        odd = sorted(name for name in {**shapes, **saved} if name not in saved or shapes.get(name) != saved[name].shape)
        received = f"other parameters than this recipe trains ({odd[0]} ...)"
        raise RunFailed(f"checkpoint {path}", received, "those of its own recipe and base model", "use these")
    for name, parameter in parameters.items():
        parameter.copy_(saved[name])


def random_state() -> dict[str, str]:
    """The states of torch's generators; Luthier draws from no others during training."""
    state = {"cpu": torch.get_rng_state().numpy().tobytes().hex()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def set_random_state(state: dict[str, str]) -> None:
    """Put back what :func:`random_state` gave."""
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["cpu"]), dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.frombuffer(bytearray.fromhex(state["cuda"]), dtype=torch.uint8))


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _split(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as tensors (`name/key`) and plain numbers."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    seen: set[int] = set()
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                value = value.detach().contiguous()
                # 8-bit optimisers have one table of 256 numbers for all parameters; safetensors takes no shared memory.
                value = value.clone() if value.data_ptr() in seen else value
                seen.add(value.data_ptr())
                tensors[f"{names[id(parameter)]}/{key}"] = value
            else:
                numbers[f"{names[id(parameter)]}/{key}"] = value
    return tensors, numbers


def _join(
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, torch.nn.Parameter],
    tensors: dict[str, torch.Tensor],
    numbers: dict[str, Any],
) -> None:
    on_device = _counters_on_device(optimizer)
    optimizer.state.clear()
    for place, value in {**tensors, **numbers}.items():
        name, _, key = place.rpartition("/")
        parameter = parameters[name]
        if isinstance(value, torch.Tensor):
            # A copy has memory of its own: the loaded tensor is a view of the mapped file.
            value = value.to(parameter.device if value.ndim or on_device else "cpu", copy=True)
        optimizer.state[parameter][key] = value


def _counters_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Fused and capturable optimisers count steps where the parameters are, others on the CPU."""
    return any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)


def _sum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
