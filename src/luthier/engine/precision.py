# SPDX-License-Identifier: Apache-2.0
"""Numbers: which the forward pass uses, and float32 masters for trained 16-bit weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from luthier.models.load import bf16_is_fast

if TYPE_CHECKING:
    from luthier.core.trainable import Trainable

# What a float32 product through oneDNN may differ by (relative); real bfloat16 rounding gives ~3e-3.
_SAME_PRODUCT = 1e-5


def pick_dtype(name: str, device: str = "cpu") -> torch.dtype:
    """`auto` becomes bfloat16 where the machine multiplies it in hardware, else float32."""
    if name == "auto":
        return torch.bfloat16 if bf16_is_fast(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def pick_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def route_float32() -> bool:
    """Send float32 products on a CPU through oneDNN where that is exact.

    PyTorch's default (MKL) does not use AVX-512 well on AMD; oneDNN ran the same float32 product 1.7 times as fast
    there. The switch that routes it allows bfloat16 inside, which machines with AMX really use: a product is
    checked, and the switch goes back where it differs.

    Returns:
        Whether the route is on.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(192, 256, generator=generator), torch.randn(256, 192, generator=generator)
    exact = a.double() @ b.double()
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    error = float((a @ b - exact).norm() / exact.norm())
    if error > _SAME_PRODUCT:
        torch.backends.mkldnn.matmul.fp32_precision = before
        return False
    return True


class Masters:
    """Float32 twins of trained 16-bit parameters; what is float32 already stands for itself.

    The optimiser moves the twins; gradients are added up in float32 as they arrive, so many micro-batches lose
    nothing; after a step the twins are rounded into the model.
    """

    def __init__(self, trainable: Trainable):
        self.twins: dict[str, torch.nn.Parameter] = {}
        self._pairs: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []
        for name, parameter in trainable.parameters().items():
            if parameter.dtype in (torch.bfloat16, torch.float16):
                twin = torch.nn.Parameter(parameter.detach().float())
                self._pairs.append((parameter, twin))
                parameter.register_post_accumulate_grad_hook(_move_gradient(twin))
                self.twins[name] = twin
            else:
                self.twins[name] = parameter

    @torch.no_grad()
    def publish(self) -> None:
        """Round the twins into the model's own parameters."""
        for parameter, twin in self._pairs:
            parameter.copy_(twin)


def _move_gradient(twin: torch.nn.Parameter):  # noqa: ANN202 - torch's hook type is private
    def hook(parameter: torch.Tensor) -> None:
        grad = parameter.grad
        if grad is not None:
            twin.grad = grad.float() if twin.grad is None else twin.grad.add_(grad)
            parameter.grad = None

    return hook
