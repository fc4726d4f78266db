# SPDX-License-Identifier: Apache-2.0
"""What tests of LoRA share."""

from __future__ import annotations

from tests.tiny import tiny

from luthier.methods import lora


def applied(family: str, **keys):
    return lora.apply(tiny(family), lora.Config(**({"r": 4} | keys)))
