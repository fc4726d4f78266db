# SPDX-License-Identifier: Apache-2.0
"""What a run keeps of the machine while it lasts, and gives back."""

from __future__ import annotations

import ctypes
import platform
import sys

import pytest
import torch

from luthier.engine.machine import kept_pages


def _faults_of_freeing_and_taking() -> int:
    """Page faults of ten tensors of 40 MB in parts of 4 MB, after a first one; 10,000 pages each."""
    import resource

    def use() -> None:
        parts = [torch.ones(1_000_000) for _ in range(10)]
        del parts

    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        use()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="pages are kept by glibc's settings"
)
def test_freed_pages_stay_inside_and_go_back_after() -> None:
    ctypes.CDLL(None).malloc_trim(0)  # what tests before this one have freed is no room to begin with
    resident = _resident()
    with kept_pages():
        assert _faults_of_freeing_and_taking() < 40_000  # 100,000 if each tensor came from the system anew
        assert _resident() > resident + 30_000_000
    assert _resident() < resident + 10_000_000


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
