# SPDX-License-Identifier: Apache-2.0
"""Where Luthier keeps what it can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """Return the cache folder: ``LUTHIER_HOME``, else the platform's cache folder with ``luthier`` below it.

    The folder is not made here. Everything in it may be deleted at any time; it only costs time.
    """
    given = os.environ.get("LUTHIER_HOME")
    if given:
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "luthier"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "luthier"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luthier"
