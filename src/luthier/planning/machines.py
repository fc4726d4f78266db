# SPDX-License-Identifier: Apache-2.0
"""Machines by name: memory, speed and bandwidth from their makers' data sheets, and how much of it training reaches.

Peaks are dense (no sparsity), in multiply-adds of 16 bits that add up in 32; bandwidths are those of device memory.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from luthier.core.errors import UserError, did_you_mean

# Of a GPU's peak in 16 bits, by what ran: MFU of PyTorch FSDP trainers of 7B models on A100 and H100 is 0.35 to 0.57.
# Assumed, not measured here.
UTILISATION = 0.45
_BANDWIDTH_REACHED = 0.75  # of the data sheet, by copies: assumed
_NAMED = re.compile(r"(?:(\d+)\s*[x×*])?\s*([A-Za-z0-9][\w .-]*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run is planned for.

    Attributes:
        name: As in the table, or what this machine calls its processor.
        device: `cpu` or `cuda`.
        count: Devices that share a run.
        memory: Bytes of each that a run may take.
        flops: Operations a second of each at its peak, by the numbers they are in.
        bandwidth: Bytes a second of each one's memory.
        link: Bytes a second between devices of one machine, one way.
        utilisation: Share of the peak that training reaches.
        told: Who says so.
    """

    name: str
    device: str
    count: int = 1
    memory: int
    flops: dict[str, float]
    bandwidth: float
    link: float = 0.0
    utilisation: float = UTILISATION
    told: str = "data sheet; utilisation assumed"

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def peak(self, dtype: str) -> float:
        """Operations a second of one device."""
        return self.flops.get(dtype, self.flops["float32"])


def _gpu(
    gigabytes: float, bf16: float, fp32: float, bandwidth: float, link: float = 32e9, half: str = "bfloat16"
) -> Any:
    """A GPU: GB of memory, TFLOP/s in 16 and 32 bits, GB/s."""
    return {
        "device": "cuda",
        "memory": int(gigabytes * 1e9),
        "flops": {half: bf16 * 1e12, "float32": fp32 * 1e12},
        "bandwidth": bandwidth * 1e9,
        "link": link,
    }


# Makers' data sheets. Float32 is TF32 where the GPU has it (Luthier does not turn it on, so plain float32 is given).
TABLE: dict[str, dict[str, Any]] = {
    "B200": _gpu(180, 2250, 75, 7700, 900e9),
    "H200": _gpu(141, 989, 67, 4800, 450e9),
    "H100-80GB": _gpu(80, 989, 67, 3350, 450e9),
    "H100-PCIe": _gpu(80, 756, 51, 2000, 64e9),
    "A100-80GB": _gpu(80, 312, 19.5, 2039, 300e9),
    "A100-40GB": _gpu(40, 312, 19.5, 1555, 300e9),
    "L40S": _gpu(48, 362, 91.6, 864),
    "L4": _gpu(24, 121, 30.3, 300),
    "A10G": _gpu(24, 70, 35, 600),
    "RTX-4090": _gpu(24, 165.2, 82.6, 1008),
    "RTX-3090": _gpu(24, 71, 35.6, 936),
    "V100-32GB": _gpu(32, 125, 15.7, 900, 150e9, half="float16"),
    "T4": _gpu(16, 65, 8.1, 320, half="float16"),
}
ALIASES = {"A100": "A100-80GB", "H100": "H100-80GB", "4090": "RTX-4090", "3090": "RTX-3090", "V100": "V100-32GB"}


def named(words: str) -> Machine:
    """A machine of the table.

    Args:
        words: `H200`, `8xA100-40GB`.

    Raises:
        UserError: There is none of this name.

    Example:
        >>> found = named("8xa100-40gb")
        >>> found.count, found.name, found.memory
        (8, 'A100-40GB', 40000000000)
    """
    found = _NAMED.fullmatch(words.strip())
    name = found[2].strip().replace(" ", "-").casefold() if found else ""
    known = {one.casefold(): one for one in (*TABLE, *ALIASES)}
    if found is None or name not in known or (found[1] and not int(found[1])):
        allowed = did_you_mean(name, [*TABLE, *ALIASES]) or f"one of {', '.join(TABLE)}"
        raise UserError("--on", f"received {words!r}", allowed, "write it as H200, or 8xA100-40GB")
    key = ALIASES.get(known[name], known[name])
    machine = Machine(name=key, count=int(found[1] or 1), **TABLE[key])
    return replace(machine, bandwidth=machine.bandwidth * _BANDWIDTH_REACHED)


def has_bfloat16(machine: Machine) -> bool:
    """Whether it multiplies bfloat16 in hardware."""
    return "bfloat16" in machine.flops
