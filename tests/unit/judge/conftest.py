# SPDX-License-Identifier: Apache-2.0
"""A copy of the bench that ships, with answers of two models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.endpoint import answers

import luthier


@pytest.fixture
def bench_folder(tmp_path):
    folder = tmp_path / "bench"
    shutil.copytree(Path(luthier.__file__).parent / "judge" / "own", folder)
    answers(folder, "one", "two")
    return folder
