# SPDX-License-Identifier: Apache-2.0
"""Put fast modules in the place of transformers' own where they compute the same.

Only instances in this model's tree change, never a class of transformers; parameters keep their names. A module is
replaced when its parts have the shape of the known formula AND its output on random input is the same; anything
else stays as it is, so an unknown variant (Gemma's 1 + weight, a different activation) is never approximated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from luthier.kernels.norm import rms_norm
from luthier.kernels.swiglu import swiglu

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Both sides run in the module's own numbers; bfloat16 may round one step apart.
_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


class RmsNorm(nn.Module):
    """`kernels.norm` with a module's weight."""

    def __init__(self, plain: nn.Module, eps: float):
        super().__init__()
        self.weight: nn.Parameter = plain.weight  # type: ignore[assignment]
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., H] to [..., H]."""
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class GatedMlp(nn.Module):
    """down(silu(gate(x)) * up(x)); the three projections stay modules, so methods can rewire them."""

    def __init__(self, plain: nn.Module):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = plain.gate_proj, plain.up_proj, plain.down_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., H] to [..., H]."""
        gate: torch.Tensor = self.gate_proj(x)  # type: ignore[operator]
        result: torch.Tensor = self.down_proj(swiglu(gate, self.up_proj(x)))  # type: ignore[operator]
        return result


@torch.no_grad()
def fuse(model: PreTrainedModel) -> dict[str, int]:
    """Replace what can be replaced.

    Args:
        model: Plain, before any method; changed in place.

    Returns:
        How many modules of each kind were replaced.
    """
    counts = {"rms_norm": 0, "swiglu": 0}
    for name, module in list(model.named_modules()):
        fast = _candidate(module)
        if fast is not None and _same(module, fast):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, fast.train(module.training))
            counts["rms_norm" if isinstance(fast, RmsNorm) else "swiglu"] += 1
    return counts


def _candidate(module: nn.Module) -> nn.Module | None:
    children = dict(module.named_children())
    parameters = [name for name, _ in module.named_parameters(recurse=False)]
    eps: Any = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if "RMSNorm" in type(module).__name__ and not children and parameters == ["weight"] and isinstance(eps, float):
        return RmsNorm(module, eps)
    leaves = {n for n, child in children.items() if isinstance(child, nn.Linear)}
    if leaves == {"gate_proj", "up_proj", "down_proj"} and not parameters:
        return GatedMlp(module)
    return None


def _same(plain: nn.Module, fast: nn.Module) -> bool:
    """Whether both give the same on random rows, some of them large and some tiny."""
    weight = next(plain.parameters())
    width = weight.shape[-1]  # the norm's only one; a gated MLP's first parameter is gate_proj's [F, H]
    sizes = torch.tensor([1e-3, 1.0, 1.0, 3.0, 10.0, 30.0])[None, :, None]
    x = (torch.randn(1, 6, width, generator=torch.Generator().manual_seed(0)) * sizes).to(weight)
    try:
        wanted, got = plain(x), fast(x)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False
    scale = wanted.abs().amax(-1, keepdim=True).clamp_min(1e-6)
    return bool(((wanted - got).abs() / scale).max() <= _TOLERANCE.get(weight.dtype, 0.0))
