# SPDX-License-Identifier: Apache-2.0
"""The seams: what a method gives the engine, and what an objective is to it. Types only; no torch at run time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    import torch

    from luthier.kernels.forest import Forest


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    Attributes:
        parameters: Name in the checkpoint -> parameter.
        learning_rate_scale: Factor on the recipe's learning rate (LoRA+, arXiv 2402.12354, uses one for B).
    """

    parameters: Mapping[str, torch.nn.Parameter]
    learning_rate_scale: float = 1.0


class GradientTransform(Protocol):
    """What stands between one parameter's gradient and its optimiser, which sees a smaller tensor in its place.

    The optimiser moves a stand-in that is zero before each step, at a rate of 1 and without weight decay. Where it went
    is minus the optimiser's own direction, of which `restore` makes the parameter's; rate and decay are its own.

    Attributes:
        shape: Of what the optimiser sees.
        state_bytes: What it keeps itself from step to step.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the optimiser sees."""
        ...

    @property
    def state_bytes(self) -> int:
        """What it keeps itself from step to step."""
        ...

    def project(self, gradient: torch.Tensor, own: dict[str, Any], moments: dict[str, Any]) -> torch.Tensor:
        """What the optimiser sees of a gradient: averaged over ranks, and clipped.

        Args:
            gradient: Of the parameter's shape.
            own: What is kept from step to step, tensors and plain numbers; empty at first. Checkpoints have it.
            moments: The optimiser's state for this parameter, which may be changed or emptied.
        """
        ...

    def restore(self, update: torch.Tensor, gradient: torch.Tensor, own: dict[str, Any]) -> torch.Tensor:
        """The parameter's update, of its shape, from the stand-in's."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """What a method made of a model.

    Attributes:
        model: The model, rewired; everything that does not train has `requires_grad` off.
        groups: All parameters that train.
        folder: What the result is: an adapter beside its base, or a whole model.
        save: Write the result (`adapter/` in PEFT's layout, or `model/` in transformers') into an empty folder.
        merge: Fold the update into the base weights and give back the plain model; the method is gone afterwards.
        disabled: Inside, the model computes what it did before the method.
        starts_as_base: Whether the model computes that before its first step too; virtual tokens change it at once.
        transforms: What stands between gradient and optimiser, by parameter's name; most methods have none.
        layerwise: Whether parameters move in the backward pass, each as soon as its gradient is there.
    """

    model: torch.nn.Module
    groups: tuple[ParameterGroup, ...]
    folder: Literal["adapter", "model"]
    save: Callable[[Path], None]
    merge: Callable[[], torch.nn.Module]
    disabled: Callable[[], AbstractContextManager[None]]
    starts_as_base: bool = True
    transforms: Mapping[str, GradientTransform] = field(default_factory=dict)
    layerwise: bool = False

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """All trained parameters by their name in the checkpoint."""
        return {name: parameter for group in self.groups for name, parameter in group.parameters.items()}

    @property
    def num_trainable(self) -> int:
        """Numbers that train; a tied parameter counts once."""
        return sum(p.numel() for p in {id(p): p for p in self.parameters().values()}.values())


@dataclass(frozen=True, kw_only=True)
class Loss:
    """An objective's value over one micro-batch.

    Attributes:
        total: Sum over its units (scored tokens, pairs ...), a scalar that has a gradient. The engine divides by the
            units of the whole optimiser step, so any split into micro-batches gives the same gradient.
        metrics: Sums to be logged, divided by the same units.
    """

    total: torch.Tensor
    metrics: Mapping[str, torch.Tensor]


class Objective(Protocol):
    """A bound objective: pure functions of what the model says of a forest.

    Its module (`objectives/x.py`) may define, for what happens before it is bound:

        ROWS = "judged"       the kind of its rows (`core.tasks.RowKind`), "plain" if it does not say
        TASKS = ("SEQ_CLS",)  what its model can be for (`core.tasks.Task`), ("CAUSAL_LM",) if it does not say
        DEFAULT_FOR = "..."   the task whose objective it is where a recipe names none
        LABELLED = True       `bind(config, labels)` takes what the rows are labelled with (`core.tasks.Labels`)

    Attributes:
        reference: Whether the forest must say what the reference model says (`Forest.reference`).
        loss_at_start: The loss where the policy is the reference still, or None where that is not one number.
    """

    @property
    def reference(self) -> bool:
        """Whether it compares with a reference model."""
        ...

    @property
    def loss_at_start(self) -> float | None:
        """What `loss` is per unit while policy and reference are one."""
        ...

    def units(self, forest: Forest) -> int:
        """By how much this micro-batch counts in the normalisation."""
        ...

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:
        """The value over one micro-batch.

        Args:
            outputs: What the model says, by its task. CAUSAL_LM and SEQ_2_SEQ_LM: log-probability of each scored
                token, [S]. SEQ_CLS: values of each segment, [N], or [N, C] of several. TOKEN_CLS: [T, C].
                QUESTION_ANS: logits of start and end, [T, 2]. FEATURE_EXTRACTION: hidden states, [T, H].
            forest: The micro-batch.
        """
        ...


@runtime_checkable
class Gathering(Protocol):
    """An objective whose loss needs numbers of the whole optimiser step (KTO's estimate of the KL, in-batch negatives).

    Attributes:
        mismatched: Whether each tree shall have another row's answer as one more child, with grade NaN.
    """

    @property
    def mismatched(self) -> bool:
        """Whether it asks for mismatched answers."""
        ...

    def gather(self, outputs: torch.Tensor, forest: Forest) -> Mapping[str, torch.Tensor]:
        """What `loss` reads of the whole step in `Forest.step`: of one micro-batch, without gradient.

        Numbers of no dimension are added up over the step; others are joined along their first axis, rank by rank and
        micro-batch by micro-batch, in which order `Forest.place` is this one's number.
        """
        ...


@runtime_checkable
class Predicting(Protocol):
    """An objective whose quality is more than a mean over units: accuracy, F1, rank correlation.

    After an evaluation the records of all batches (and ranks) are joined along their first axis, in order.
    """

    def records(self, outputs: torch.Tensor, forest: Forest) -> Mapping[str, torch.Tensor]:
        """What is kept of one batch, on the CPU: predictions beside what was right."""
        ...

    def metrics(self, records: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        """Metrics by name, from the records of a whole evaluation."""
        ...
