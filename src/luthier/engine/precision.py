# SPDX-License-Identifier: Apache-2.0
"""Numbers: which the forward pass uses, and float32 masters for trained 16-bit weights."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from luthier.models.load import bf16_is_fast
from luthier.models.threads import bound_caches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@contextmanager
def routed_float32(wanted: bool = True) -> Iterator[bool]:
    """Inside, float32 products on a CPU go through oneDNN where that is exact.

    PyTorch's default (MKL) does not use AVX-512 well on AMD; oneDNN ran the same float32 product 1.7 times as fast
    there. The switch that routes it allows bfloat16 inside, which machines with AMX really use: products are
    checked, and the switch goes back where they differ. It is the whole process's, so it goes back at the end, too.

    Args:
        wanted: False leaves everything as it is.

    Yields:
        Whether the route is on.
    """
    switch = getattr(torch.backends.mkldnn, "matmul", None) if torch.backends.mkldnn.is_available() else None
    if not wanted or switch is None:
        yield False
        return
    bound_caches()  # the products that follow may be the process's first
    before = switch.fp32_precision
    try:
        switch.fp32_precision = "bf16"
        exact = product_error() <= _SAME_PRODUCT
        if not exact:
            switch.fp32_precision = before
        yield exact
    finally:
        switch.fp32_precision = before


def product_error() -> float:
    """Relative error of float32 products as they are routed now, against float64: the largest of two shapes.

    oneDNN chooses its code by the shape; one square product and one like a layer's, weight transposed, are tried.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for rows, inner, columns in ((192, 256, 192), (512, 256, 1024)):
        a, b = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator)
        wanted = a.double() @ b.double().T
        worst = max(worst, float((a @ b.T - wanted).norm() / wanted.norm()))
    return worst


class Masters:
    """Float32 twins of trained 16-bit parameters; what is float32 already stands for itself.

    The optimiser moves the twins; gradients are added up in float32 as they arrive, so many micro-batches lose
    nothing; after a step the twins are rounded into the model.

    Attributes:
        twins: What the optimiser moves, by the parameters' names.
        kept: What checkpoints keep, by the same names: the twins.
    """

    def __init__(self, trainable: Trainable) -> None:
        self.twins: dict[str, torch.nn.Parameter] = {}
        self._pairs: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []
        self._places: dict[str, int] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        for name, parameter in trainable.parameters().items():
            if is_short(parameter):
                twin = self._twin(parameter)
                self._places[name] = len(self._pairs)
                self._pairs.append((parameter, twin))
                self._hooks.append(parameter.register_post_accumulate_grad_hook(_move_gradient(twin)))
                self.twins[name] = twin
            else:
                self.twins[name] = parameter
        self.kept = self.twins

    def _twin(self, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        return torch.nn.Parameter(parameter.detach().float())

    def move(self, optimizer: torch.optim.Optimizer, step: int, only: str | None = None) -> None:  # noqa: ARG002
        """Make one update, which uses the gradients up, and let the model have it.

        Args:
            optimizer: Over the twins.
            step: Steps done before: where updates are rounded, random numbers are drawn by it.
            only: The one parameter that has a gradient, where it moves alone.
        """
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.publish(only)

    @torch.no_grad()
    def publish(self, only: str | None = None) -> None:
        """Round the twins, or one of them, into the model's own parameters."""
        for place in self._chosen(only):
            parameter, twin = self._pairs[place]
            parameter.copy_(twin)

    def _chosen(self, only: str | None) -> list[int]:
        """Places of the pairs: all, or that of one parameter, which has none where it is float32 already."""
        return [place for name, place in self._places.items() if only in (None, name)]

    def release(self) -> None:
        """Let the model's parameters keep their own gradients again: the model outlives the run."""
        for hook in self._hooks:
            hook.remove()


def is_short(parameter: torch.Tensor) -> bool:
    """Whether a parameter is of 16 bits."""
    return parameter.dtype in (torch.bfloat16, torch.float16)


def _move_gradient(twin: torch.nn.Parameter) -> Callable[[torch.Tensor], None]:
    def hook(parameter: torch.Tensor) -> None:
        grad = parameter.grad
        if grad is not None:
            twin.grad = grad.float() if twin.grad is None else twin.grad.add_(grad)
            parameter.grad = None

    return hook
