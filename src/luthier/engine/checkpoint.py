# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not there: a temporary folder, fsync, a manifest with checksums, a rename.

    checkpoints/step-40/
        parameters.safetensors   every trained parameter, by name (float32 masters where the model is 16-bit)
        optimizer.safetensors    the optimiser's tensors
        state.json               the optimiser's numbers, the loop's counters, random states
        manifest.json            size and SHA-256 of each file; written last

No pickle is ever written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from luthier.core.errors import RunFailed

_PREFIX = "step-"
_TEMPORARY = ".writing-"


def save_checkpoint(
    folder: Path,
    step: int,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    keep: int | None = None,
) -> Path:
    """Write `step-<step>` into a run's `checkpoints/`.

    Args:
        folder: The run's `checkpoints` folder.
        step: Optimiser steps done.
        parameters: What trains, by name.
        optimizer: Its state is kept to the bit.
        progress: The loop's counters; anything JSON holds exactly.
        keep: Remove all but this many newest good checkpoints afterwards.

    Raises:
        RunFailed: The disk is full or not writable; what was saved before stays.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    tensors, numbers = _split(optimizer, names)
    final, writing = folder / f"{_PREFIX}{step}", folder / f"{_TEMPORARY}{step}-{os.getpid()}"
    try:
        writing.mkdir(parents=True, exist_ok=True)
        save_file({n: p.detach().contiguous() for n, p in parameters.items()}, writing / "parameters.safetensors")
        save_file(tensors, writing / "optimizer.safetensors")
        state = {"step": step, "progress": progress, "optimizer": numbers, "random": random_state()}
        (writing / "state.json").write_text(json.dumps(state))
        (writing / "manifest.json").write_text(json.dumps({p.name: _sum(p) for p in sorted(writing.iterdir())}, indent=1))
        for file in writing.iterdir():
            _sync(file)
        _sync(writing)
        if final.exists():
            shutil.rmtree(final)
        writing.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(writing, ignore_errors=True)
        raise RunFailed(
            f"checkpoint {final}",
            f"could not be written ({error})",
            "checkpoints written before are untouched",
            "free some space and resume with --resume",
        ) from error
    if keep is not None:
        for old in find_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    return final


def find_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints by step, oldest first, whole or not; remains of interrupted writes are removed."""
    if not folder.is_dir():
        return []
    for rest in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(rest, ignore_errors=True)
    found = [p for p in folder.glob(f"{_PREFIX}*") if p.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix(_PREFIX)))


def newest_good(folder: Path) -> Path | None:
    """The newest checkpoint whose checksums hold, or None."""
    return next((path for path in reversed(find_checkpoints(folder)) if is_whole(path)), None)


def is_whole(path: Path) -> bool:
    """Whether every file of the manifest is there with its checksum."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        return all(_sum(path / name) == expected for name, expected in manifest.items())
    except (OSError, ValueError):
        return False


def load_checkpoint(
    path: Path, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put a checkpoint back into parameters, optimiser and random states.

    Returns:
        The loop's counters as they were saved.

    Raises:
        RunFailed: The checkpoint does not hold these parameters.
    """
    saved = load_file(path / "parameters.safetensors")
    if saved.keys() != parameters.keys():
        odd = sorted(saved.keys() ^ parameters.keys())
        raise RunFailed(f"checkpoint {path}", f"other parameters than this recipe trains ({odd[0]} ...)", fix="use its recipe")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    state = json.loads((path / "state.json").read_text())
    _join(optimizer, parameters, load_file(path / "optimizer.safetensors"), state["optimizer"])
    set_random_state(state["random"])
    progress: dict[str, Any] = state["progress"]
    return progress


def random_state() -> dict[str, Any]:
    """The states of torch's generators; Luthier draws from no others during training."""
    state = {"cpu": bytes(torch.get_rng_state().tolist()).hex()}
    if torch.cuda.is_available():
        state["cuda"] = bytes(torch.cuda.get_rng_state().tolist()).hex()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` gave."""
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["cpu"])), dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(list(bytes.fromhex(state["cuda"])), dtype=torch.uint8))


def _split(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as tensors (`name/key`) and plain numbers."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{names[id(parameter)]}/{key}"] = value.detach().contiguous()
            else:
                numbers[f"{names[id(parameter)]}/{key}"] = value
    return tensors, numbers


def _join(
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, torch.nn.Parameter],
    tensors: dict[str, torch.Tensor],
    numbers: dict[str, Any],
) -> None:
    optimizer.state.clear()
    for place, value in {**tensors, **numbers}.items():
        name, _, key = place.rpartition("/")
        parameter = parameters[name]
        if isinstance(value, torch.Tensor) and value.ndim:  # step counters stay on the CPU, moments go to the parameter
            value = value.to(parameter.device)
        optimizer.state[parameter][key] = value


def _sum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
