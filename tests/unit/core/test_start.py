# SPDX-License-Identifier: Apache-2.0
"""The collector of garbage rests while what is large is imported, and works again behind it, whatever happens."""

from __future__ import annotations

import gc
import sys

import pytest
import torch  # noqa: F401 - as in every process that has imported what is large

from luthier.core.start import large_imports


def test_the_collector_rests_and_works_again(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    with large_imports():  # torch is there: nothing changes
        assert gc.isenabled()
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    found = []

    def fail():
        with large_imports():
            found.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert (found, gc.isenabled()) == ([False], True)
    assert frozen == [False]
