# SPDX-License-Identifier: Apache-2.0
"""Lion of bitsandbytes with a state of 8 bits that a GPU pages out to the host's memory where it is short."""

from __future__ import annotations

from functools import partial

from luthier.engine.optim._bitsandbytes import IMPORTED_BYTES, PASSING_BYTES, check, make_lion
from luthier.engine.optim._bitsandbytes import lion_bytes as state_bytes

__all__ = ["IMPORTED_BYTES", "PASSING_BYTES", "check", "make", "state_bytes"]

make = partial(make_lion, name="PagedLion8bit")
