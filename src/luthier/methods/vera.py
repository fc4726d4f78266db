# SPDX-License-Identifier: Apache-2.0
"""VeRA: two random matrices for all layers, frozen; each layer trains two vectors that scale them; PEFT's VERA.

    y = x W^T + b + l_b * (B (l_d * (A x)))        A [r, K], B [N, r] cut from shared ones; l_d [r] and l_b [N] train

A and B are drawn from `projection_prng_key` as PEFT draws them, so a folder need not hold them. l_b starts at zero, l_d
at `d_initial`. In the computation both vectors stand on B: the update is a low-rank one whose A is frozen, so a layer
keeps r numbers a token for the backward pass, and not its input.

Reference:
    Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation, arXiv 2310.11454, equation 2 and section 3.2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import ModelError, RecipeError
from luthier.methods import _peft
from luthier.methods._lowrank import LoraLinear
from luthier.methods._updates import LinearKeys, config_of, find_linears, load_linears, train_updates
from luthier.models.targets import endings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.trainable import Trainable

PEFT_TYPE = "VERA"
SHARES_BASE = True  # the vectors stand beside the base
_A, _B = "vera_A", "vera_B"


class Config(LinearKeys):
    """The keys of VeRA, spelt as in PEFT."""

    r: Annotated[int, Field(gt=0)] = 256
    """Rank of the shared matrices; it may be larger than LoRA's, and than a layer."""
    projection_prng_key: Annotated[int, Field(ge=0)] = 0
    """Seed of the shared matrices, apart from the run's."""
    save_projection: bool = True
    """Write the shared matrices into the folder too; without them it is read by drawing them again."""
    vera_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the update's inputs that is dropped in training."""
    d_initial: float = 0.1
    """What l_d starts at."""
    bias: Literal["none", "all", "vera_only"] = "none"
    """Which biases train besides: none, all of the model's, or those of the adapted layers."""


class Projections:
    """The two matrices that all layers share, on the device of whoever asks.

    Args:
        matrices: A [r, K] and B [N, r] of the largest K and N.
        saved: Whether the folder holds them.
    """

    def __init__(self, matrices: tuple[torch.Tensor, torch.Tensor], saved: bool) -> None:
        self.matrices, self.saved = matrices, saved

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B there, from then on."""
        if self.matrices[0].device != device:
            self.matrices = self.matrices[0].to(device), self.matrices[1].to(device)
        return self.matrices


class VeraLinear(LoraLinear):
    """W + diag(l_b) B diag(l_d) A in the place of a frozen linear."""

    def __init__(self, base: nn.Module, shared: Projections, *, d_initial: float, dropout: float) -> None:
        self.shared = shared  # before the base class makes the vectors; no module, so it is stored nowhere
        super().__init__(base, r=shared.matrices[0].shape[0], scaling=1.0, dropout=dropout)
        nn.init.constant_(self.vera_lambda_d, d_initial)

    def make(self, r: int) -> None:
        """The vectors; l_d is set afterwards."""
        self.vera_lambda_b = nn.Parameter(self.matrix(1, self.out_features)[0].detach())
        self.vera_lambda_d = nn.Parameter(self.matrix(1, r)[0].detach())

    @property
    def lora_A(self) -> torch.Tensor:  # type: ignore[override]
        """A, [r, K]."""
        return self.shared.on(self.weight.device)[0][:, : self.in_features]

    @property
    def lora_B(self) -> torch.Tensor:  # type: ignore[override]
        """B with both vectors on it, [N, r]."""
        shared = self.shared.on(self.weight.device)[1][: self.out_features]
        return shared * torch.outer(self.vera_lambda_b, self.vera_lambda_d)  # keeps two vectors, and no product

    def tensors(self) -> dict[str, torch.Tensor]:
        """The vectors by PEFT's names."""
        return {"vera_lambda_b": self.vera_lambda_b, "vera_lambda_d": self.vera_lambda_d}

    def saved(self) -> dict[str, torch.Tensor]:
        """The vectors."""
        return self.tensors()


def draw_projections(shape: tuple[int, int], r: int, key: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B as PEFT 0.21 draws them: Kaiming-uniform (fan in, gain of a ReLU), one generator, A first.

    Args:
        shape: The largest number of outputs and of inputs of all layers, each for itself.
        r: Rank.
        key: Seed.

    Returns:
        [r, inputs] and [outputs, r], float32.

    Example:
        >>> a, b = draw_projections((3, 4), 2, 0)
        >>> a.shape, b.shape, bool(a.abs().max() <= (6 / 4) ** 0.5)
        (torch.Size([2, 4]), torch.Size([3, 2]), True)
    """
    generator = torch.Generator().manual_seed(key)
    outputs, inputs = shape
    a, b = (
        torch.empty(size).uniform_(-math.sqrt(6 / size[1]), math.sqrt(6 / size[1]), generator=generator)
        for size in ((r, inputs), (outputs, r))
    )
    return a, b


def apply(model: nn.Module, config: Config) -> Trainable:
    """Freeze the model and put scaled shared matrices beside its linears.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, or any module; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A target or pattern matches nothing, or something that is no linear; or a layer is named twice.
            The model is then as it was.

    Reference:
        Kopiczko et al., arXiv 2310.11454, equation 2.
    """
    return _rewire(model, config, *find_linears(model, config))


def load_peft(model: nn.Module, given: Mapping[str, Any], where: str) -> Trainable:
    """Rewire a model as a PEFT configuration says; the vectors are filled in afterwards.

    Raises:
        ModelError: It has keys that are not known here, or does not fit the model.
    """
    used = ("r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "bias")
    resolved = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")
    _peft.refuse_keys(given, (*used, *resolved, "init_weights"), "VeRA", where)
    targets, whole = load_linears(model, given, where)
    return _rewire(model, config_of(Config, given, used, where), targets, whole)


def check_agrees(model: nn.Module, given: Mapping[str, Any], where: str) -> None:
    """Compare a folder's shared matrices with a recipe's: the vectors fit others of the same size, too.

    Raises:
        RecipeError: It was trained with other ones.
    """
    shared = _projections(model)
    if shared is None or (given.get("save_projection", True) and shared.saved):
        return  # the folder's own take the place of those drawn here (unfold)
    key = given.get("projection_prng_key", 0)
    a, b = shared.matrices
    there = draw_projections((b.shape[0], a.shape[1]), a.shape[0], key)
    same = all(torch.equal(one.to(here), here) for one, here in zip(there, (a, b), strict=True))
    if given.get("save_projection", True) != shared.saved or not same:
        told = f"projection_prng_key: {key}, save_projection: {str(given.get('save_projection', True)).lower()}"
        received = f"{where} has {told}, the recipe something else"
        raise RecipeError("model.adapter_name_or_path", received, "the same shared matrices", f"write {told}")


def unfold(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A folder's tensors as the model's layers hold them: the shared matrices go where all layers find them.

    Raises:
        ModelError: The folder says that it holds them, and does not; or they have another shape.
    """
    found, shared = dict(tensors), _projections(model)
    given = found.pop(_A, None), found.pop(_B, None)
    if shared is None or not shared.saved:
        return found
    for name, tensor, here in zip((_A, _B), given, shared.matrices, strict=True):
        if tensor is None or tensor.shape != here.shape:
            received = f"no {name}" if tensor is None else f"{name} of shape {tuple(tensor.shape)}"
            allowed = f"one of shape {tuple(here.shape)} (save_projection: true)"
            raise ModelError("adapter of kind VERA", received, allowed, "give the base and folder it was trained on")
    a, b = (tensor.to(here) for tensor, here in zip(given, shared.matrices, strict=True) if tensor is not None)
    shared.matrices = a, b
    return found


def _projections(model: nn.Module) -> Projections | None:
    return next((layer.shared for layer in model.modules() if isinstance(layer, VeraLinear)), None)


def _largest(targets: dict[str, nn.Module]) -> tuple[int, int]:
    """The most outputs of a layer, and the most inputs of one."""
    shapes: list[Any] = [m.weight.T.shape if isinstance(m, Conv1D) else m.weight.shape for m in targets.values()]
    return max(rows for rows, _ in shapes), max(columns for _, columns in shapes)


def _rewire(model: nn.Module, config: Config, targets: dict[str, nn.Module], whole: dict[str, nn.Module]) -> Trainable:
    weight: Any = next(iter(targets.values())).weight
    wide = torch.promote_types(weight.dtype, torch.float32)
    a, b = draw_projections(_largest(targets), config.r, config.projection_prng_key)
    shared = Projections((a.to(weight.device, wide), b.to(weight.device, wide)), config.save_projection)

    def made() -> dict[str, VeraLinear]:
        how: Any = {"d_initial": config.d_initial, "dropout": config.vera_dropout}
        return {name: VeraLinear(module, shared, **how) for name, module in targets.items()}

    def told() -> dict[str, Any]:
        every = [name for name, _ in model.named_modules() if name]
        return {
            "peft_type": PEFT_TYPE,
            **config.model_dump(include={"r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial"}),
            "target_modules": endings_of(targets, every),
            "fan_in_fan_out": any(isinstance(module, Conv1D) for module in targets.values()),
            "bias": config.bias,
            "init_weights": True,
        }

    def beside() -> dict[str, torch.Tensor]:
        a, b = shared.matrices
        return {f"{_peft.OUTER}{_A}": a, f"{_peft.OUTER}{_B}": b} if shared.saved else {}

    bias = "lora_only" if config.bias == "vera_only" else config.bias
    return train_updates(model, made, told, whole, bias=bias, beside=beside)
