# SPDX-License-Identifier: Apache-2.0
"""AdamW of bitsandbytes with states of 8 bits: a quarter of AdamW's memory."""

from __future__ import annotations

from functools import partial

from luthier.engine.optim._bitsandbytes import adamw_bytes as state_bytes
from luthier.engine.optim._bitsandbytes import check, make_adamw

__all__ = ["check", "make", "state_bytes"]

make = partial(make_adamw, name="AdamW8bit")
