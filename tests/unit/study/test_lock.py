# SPDX-License-Identifier: Apache-2.0
"""Two processes never work on one study; the second one waits for the first, or says that it is there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from luthier.core.errors import RecipeError
from luthier.study.lock import held

pytestmark = pytest.mark.skipif(os.name != "posix", reason="flock")


def test_the_second_one_is_refused_after_its_patience(tmp_path):
    with (
        held(tmp_path, lambda _: None),
        pytest.raises(RecipeError, match=r"another process runs the study in .*; one at a time; wait, or choose"),
        held(tmp_path, lambda _: None, patience=0.0),
    ):
        pass
    with held(tmp_path, lambda _: None, patience=0.0) as number:  # and it is free again
        assert isinstance(number, int)


def test_the_second_one_waits(tmp_path):
    said: list[str] = []
    with held(tmp_path, lambda _: None):
        began = threading.Event()

        def second():
            with held(tmp_path, lambda line: (said.append(line), began.set())):
                said.append("mine")

        thread = threading.Thread(target=second)
        thread.start()
        assert began.wait(20)
        assert len(said) == 1
        assert "waiting for another process" in said[0]
    thread.join(20)
    assert said[1:] == ["mine"]


def test_a_worker_holds_it_after_the_study_is_gone(tmp_path):
    with held(tmp_path, lambda _: None) as number:
        worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[number])
    with pytest.raises(RecipeError, match="another process"), held(tmp_path, lambda _: None, patience=0.3):
        pass
    worker.communicate(b"\n")
    end = time.monotonic() + 20
    with held(tmp_path, lambda _: None, patience=20.0):
        assert time.monotonic() < end
