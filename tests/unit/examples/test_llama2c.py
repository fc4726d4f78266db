# SPDX-License-Identifier: Apache-2.0
"""The llama2.c converter: both versions give one model, and its attention scores are llama2.c's."""

from __future__ import annotations

import runpy
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[3]
module = runpy.run_path(str(ROOT / "examples" / "llama2c_to_transformers.py"))
SHAPE = module["Shape"](16, 24, 2, 4, 2, 11, 32)


def _weights(version: int) -> list[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    drawn = {name: random.normal(size=size).astype("<f4") * 0.3 for name, size in module["layout"](SHAPE, 0)}
    return [(name, drawn[name]) for name, _ in module["layout"](SHAPE, version)]


def _file(folder: Path, version: int) -> Path:
    numbers = struct.pack("<7i", *(getattr(SHAPE, name) for name in SHAPE.__dataclass_fields__))
    head = numbers if version == 0 else struct.pack("<Ii", module["MAGIC"], 1) + numbers
    body = b"".join(value.tobytes() for _, value in _weights(version))
    path = folder / f"v{version}.bin"
    path.write_bytes((head if version == 0 else head.ljust(256, b"\0")) + body)
    return path


def test_both_versions_are_one_model(tmp_path):
    ids = torch.tensor([[1, 5, 7, 3, 9]])
    logits = []
    for version in (0, 1):
        model = module["build_model"](*module["read_checkpoint"](_file(tmp_path, version))).eval()
        logits.append(model(ids).logits)
    assert torch.equal(*logits)


def test_rotated_scores_are_llama2cs():
    """llama2.c turns neighbouring pairs, transformers halves: the converted rows must give the same dot products."""
    random = np.random.default_rng(1)
    weight, x = random.normal(size=(8, 6)), random.normal(size=(2, 6))
    angle = np.outer([3.0, 7.0], 10000.0 ** (-np.arange(0, 8, 2) / 8))
    pairs = (x @ weight.T).reshape(2, 4, 2)
    turned = np.stack(
        [
            pairs[..., 0] * np.cos(angle) - pairs[..., 1] * np.sin(angle),
            pairs[..., 0] * np.sin(angle) + pairs[..., 1] * np.cos(angle),
        ],
        -1,
    ).reshape(2, 8)
    halves = x @ module["halves"](weight, 1).T
    low, high = halves[:, :4], halves[:, 4:]
    other = np.concatenate([low * np.cos(angle) - high * np.sin(angle), high * np.cos(angle) + low * np.sin(angle)], 1)
    np.testing.assert_allclose(turned[0] @ turned[1], other[0] @ other[1], rtol=1e-12)


def test_a_cut_file_is_named(tmp_path):
    path = _file(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="ends inside"):
        module["read_checkpoint"](path)
