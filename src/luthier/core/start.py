# SPDX-License-Identifier: Apache-2.0
"""Import what is large without looking for garbage in between: a fifth of a command's start.

torch and transformers make a million objects that stay. Python's collector walks over all of them again and again
while they are made: `import luthier.run` takes 3.8 s of processor time with it and 3.0 s without.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def large_imports() -> Iterator[None]:
    """Inside, nothing is collected; later what was made is not walked over. Where torch is there already, nothing."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
