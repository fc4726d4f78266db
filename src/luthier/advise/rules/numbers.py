# SPDX-License-Identifier: Apache-2.0
"""`model.dtype`: what the machine multiplies fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.advise.value import Advice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.advise.facts import Facts


def advise(facts: Facts, _: Mapping[str, Any]) -> tuple[Advice, ...]:
    """Leave it to the machine, and say what that will be."""
    why = "multiplies it in hardware" if facts.machine.bf16 else "has no hardware for bfloat16, which would be slower"
    name = "the GPU" if facts.machine.device == "cuda" else "this CPU"
    reason = f"auto is {facts.dtype} there: {name} {why}; what trains is moved in float32 either way"
    return (
        Advice(key="model.dtype", value="auto", reason=reason, sources=("machine",), sure="high", means=(facts.dtype,)),
    )
