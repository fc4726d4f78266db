# SPDX-License-Identifier: Apache-2.0
"""`python -m luthier` is the command `luthier`: for torchrun, which starts modules."""

from __future__ import annotations

from luthier.cli import main

main()
