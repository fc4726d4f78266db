# SPDX-License-Identifier: Apache-2.0
"""AdamW of bitsandbytes with states of 8 bits that a GPU pages out to the host's memory where it is short."""

from __future__ import annotations

from functools import partial

from luthier.engine.optim._bitsandbytes import IMPORTED_BYTES, PASSING_BYTES, check, make_adamw
from luthier.engine.optim._bitsandbytes import adamw_bytes as state_bytes

__all__ = ["IMPORTED_BYTES", "PASSING_BYTES", "check", "make", "state_bytes"]

make = partial(make_adamw, name="PagedAdamW8bit")
