# SPDX-License-Identifier: Apache-2.0
"""The keys of objectives that compare the policy with a reference model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Smoothing = Annotated[float, Field(ge=0.0, lt=0.5)]


class AnswerConfig(BaseModel):
    """Strict and immutable, for objectives on judged answers."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)


class ReferenceConfig(AnswerConfig):
    """Which model is the reference, and when it is asked."""

    reference: Annotated[str, Field(min_length=1)] = "start"
    """`start`: the policy before its first step; `base`: the model without any adapter; else a model folder."""
    precompute_ref_log_probs: Literal["auto"] | bool = "auto"
    """`true`: asked once for the rows that the run sees, and kept; `false`: in every step; `auto`: what costs less."""
