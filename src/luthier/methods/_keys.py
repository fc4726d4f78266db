# SPDX-License-Identifier: Apache-2.0
"""Types of the keys that several methods have: lists of names as YAML and JSON give them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator


def as_tuple(value: Any) -> Any:
    """A list as the tuple that a frozen configuration holds; anything else as it stands."""
    return tuple(value) if isinstance(value, list) else value


Words = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Names = Annotated[str | tuple[str, ...], BeforeValidator(as_tuple)]
