# SPDX-License-Identifier: Apache-2.0
"""Tensors in one stretch of addresses: none over another, none lost, next to no room between them."""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path

import pytest
import torch

from luthier.kernels.native import arena, build

needs_arena = pytest.mark.skipif(not arena.usable(), reason=f"arena: {arena.describe()}")
LARGE = 64 << 10  # bytes that stand in it


def _held() -> int:
    return arena.used_bytes()[0]


def _churn(seed: int, steps: int) -> None:
    """Take, fill, check and give back tensors of any size and in any order."""
    draw, some = random.Random(seed), {}
    for step in range(steps):
        if some and draw.random() < 0.5:
            value, tensor = some.popitem() if draw.random() < 0.5 else (key := draw.choice(list(some)), some.pop(key))
            assert bool((tensor == value).all()), f"tensor {value} was written over"
        else:
            some[step] = torch.full((draw.randrange(1, 200_000),), step, dtype=torch.int32)
    assert all(bool((tensor == value).all()) for value, tensor in some.items())


@needs_arena
def test_no_tensor_stands_on_another_and_all_are_given_back() -> None:
    before = _held()
    with arena.entered():
        _churn(0, 2000)
    assert _held() == before


@needs_arena
def test_threads_take_and_give_back_at_once() -> None:
    before, failed = _held(), []

    def work(seed: int) -> None:
        try:
            _churn(seed, 500)
        except AssertionError as error:
            failed.append(error)

    with arena.entered():
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    assert _held() == before


@needs_arena
def test_steps_of_changing_size_leave_no_room_between_tensors() -> None:
    """Forward passes of other lengths, each given back from above: pages that were written are those of the longest."""
    draw = random.Random(1)
    with arena.entered():
        start = torch.empty(LARGE, dtype=torch.uint8).data_ptr()
        highest = longest = 0
        for _ in range(50):
            length = draw.randrange(LARGE, 20 * LARGE)
            kept = []
            for _ in range(30):
                passing = torch.empty(3 * length, dtype=torch.uint8)  # what a layer needs for a moment
                kept.append(torch.empty(length, dtype=torch.uint8))
                del passing
            longest = max(longest, 33 * length)
            highest = max(highest, max(tensor.data_ptr() + length for tensor in kept) - start)
            while kept:
                kept.pop()
    assert highest <= 1.02 * longest


@needs_arena
def test_small_tensors_and_those_of_other_times_are_the_c_librarys() -> None:
    before = _held()
    outside = torch.ones(LARGE)
    with arena.entered():
        small = torch.ones(LARGE // 4 - 1)
        assert _held() == before
        inside = torch.ones(LARGE // 4)
        assert _held() == before + LARGE
        outside.resize_(2 * LARGE)  # grows where it was made
        assert _held() == before + LARGE
    assert float(inside.sum() + small.sum()) == LARGE // 2 - 1  # tensors outlive it
    inside.resize_(LARGE)
    assert float(inside[: LARGE // 4].sum()) == LARGE // 4
    del inside
    assert _held() == before


@needs_arena
def test_one_inside_another_ends_with_the_outer() -> None:
    before = _held()
    with arena.entered():
        with arena.entered():
            pass
        tensor = torch.ones(LARGE)
        assert _held() == before + 4 * LARGE
    del tensor
    torch.ones(LARGE)
    assert arena.used_bytes()[0] == before


@needs_arena
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_go_back_when_they_are_asked_for() -> None:
    with arena.entered():
        torch.ones(16 << 20)  # 64 MiB
        full = _resident()
        kept = torch.ones(LARGE)
        arena.release()
        assert _resident() < full - (60 << 20)
        assert bool((kept == 1).all())
        torch.ones(16 << 20)
        full = _resident()
    assert _resident() < full - (60 << 20)


@needs_arena
@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # torch 2.11
def test_a_profiler_sees_what_is_taken() -> None:
    with arena.entered(), torch.profiler.profile(profile_memory=True) as profile:
        torch.ones(LARGE)
    assert max(event.cpu_memory_usage for event in profile.key_averages()) >= 4 * LARGE


@needs_arena
def test_more_than_the_machine_has_is_pytorchs_own_error() -> None:
    with arena.entered(), pytest.raises(RuntimeError, match="can't allocate memory"):
        torch.empty(1 << 50, dtype=torch.uint8)


@needs_arena
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on() -> None:
    with arena.entered():
        tensor = torch.full((LARGE,), 3.0)
        child = os.fork()
        if not child:
            other = torch.full((LARGE,), 4.0)
            os._exit(0 if float(tensor[0] + other[0]) == 7 and _held() >= 8 * LARGE else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_without_a_compiler_the_c_library_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(arena, "_found", arena._found.__wrapped__)
    assert build.built(("arena.cpp",), ())[0] is None
    assert not arena.usable()
    assert "no C++ compiler found" in arena.describe()
    with arena.entered():
        assert float(torch.ones(LARGE).sum()) == LARGE
    assert arena.used_bytes() == (0, 0)


def test_off_when_the_native_code_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_NATIVE", "0")
    monkeypatch.setattr(arena, "_found", arena._found.__wrapped__)
    assert arena.describe() == "off (LUTHIER_NATIVE=0)"


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
