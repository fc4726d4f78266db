# SPDX-License-Identifier: Apache-2.0
"""Does what was written behave like what was trained? Two models on the same tokens, in numbers.

Shapes: L tokens of one row, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import RunFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

# Mean KL in nats that rounding the merged weights once may cost. Seen: at most 1e-12, 2e-7 and 2e-5.
BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 5e-3}
# The same for weights in few bits, by their bits. Seen on the built-in model: 2e-4, 7e-3 and 0.024. The rule below does
# not count there: rounding to few bits can move a model farther than a short training did, in other directions.
FEW_BITS = {8: 1e-2, 5: 0.1, 4: 0.3}
# A short training may move a model by less than the bound. Then losing half of it fails too, above this share of it.
NOISE = 1 / 50
MOST_NUMBERS = 2**27  # logits that are kept for the comparison: 512 MB in float32
MOST_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How far the written model is from the trained one, token by token.

    Attributes:
        rows: Where the tokens come from.
        tokens: Tokens compared.
        max_logit_difference: Largest absolute difference of two logits.
        mean_kl: Mean of KL(trained || written) over all tokens, in nats.
        perplexity_before: Of the trained model on these rows, every token predicted from those before it.
        perplexity_after: Of the written one.
        top1_agreement: Share of tokens after which both expect the same next one.
        adapter_kl: Mean of KL(trained || base): how far training moved the model, the scale for `mean_kl`.
        dtype: Of the written weights.
        computed_in: Numbers of both forward passes.
        bound: What `mean_kl` may be at most.
        bits: Of a weight, where it has fewer than 16; then how much of the training is kept is told and not demanded.
    """

    rows: str
    tokens: int
    max_logit_difference: float
    mean_kl: float
    perplexity_before: float
    perplexity_after: float
    top1_agreement: float
    adapter_kl: float
    dtype: str
    computed_in: str
    bound: float
    bits: int | None = None

    @property
    def holds(self) -> bool:
        """Whether the written model is within the bound and keeps most of what was trained; false for NaN."""
        kept = self.bits is not None or not self.mean_kl > 0.5 * self.adapter_kl
        lost = not kept and self.mean_kl > NOISE * self.bound
        return self.mean_kl <= self.bound and not lost and math.isfinite(self.max_logit_difference)

    @property
    def distance(self) -> float:
        """How far the two are apart, to choose between exports; NaN is farther than anything."""
        return math.inf if math.isnan(self.mean_kl) else self.mean_kl

    def to_json(self) -> dict[str, Any]:
        """The numbers and the verdict, for merge_proof.json."""
        numbers = {key: value for key, value in asdict(self).items() if key != "bits" or value is not None}
        if math.isnan(self.adapter_kl):
            numbers["adapter_kl"] = None  # JSON has no NaN
        return {**numbers, "holds": self.holds}

    def told(self) -> str:
        """One line for a person."""
        moved = "" if math.isnan(self.adapter_kl) else f" (training had moved the base by {self.adapter_kl:.2g})"
        return (
            f"{self.tokens:,} tokens compared ({self.rows}): largest logit difference {self.max_logit_difference:.2g}, "
            f"mean KL {self.mean_kl:.2g} nats{moved}, "
            f"perplexity {self.perplexity_before:.4g} before and {self.perplexity_after:.4g} after, "
            f"top-1 agreement {self.top1_agreement:.2%}"
        )

    def demand(self, where: str) -> None:
        """Fail where the bound is broken.

        Raises:
            RunFailed: It is; the numbers are in the message.
        """
        if not self.holds:
            fix = "give --dtype float32, or a larger --bound if you know why"
            allowed = f"a mean KL of at most {self.bound:g} nats for {self.dtype}, and of half of what training changed"
            if self.bits is not None:
                fix = "take more bits or smaller groups, or a larger --bound if you know why"
                allowed = f"a mean KL of at most {self.bound:g} nats for {self.dtype}"
            raise RunFailed(where, f"the written model is not the trained one: {self.told()}", allowed, fix)


class Comparison:
    """Remembers what the trained model says on some rows, to be held against another model.

    Args:
        rows: Token ids; as many are used as the memory for their logits allows.
        label: Where they come from.
        vocabulary: V.
    """

    def __init__(self, rows: Sequence[Sequence[int]], label: str, vocabulary: int) -> None:
        self.label = label
        self.rows: list[torch.Tensor] = []
        left = max(64, min(MOST_TOKENS, MOST_NUMBERS // vocabulary))
        for row in rows:
            if min(len(row), left) > 1:
                self.rows.append(torch.tensor(row[:left]))
                left -= len(self.rows[-1])
        self.trained: list[torch.Tensor] = []
        self.adapter_kl = math.nan

    def remember(self, model: PreTrainedModel) -> None:
        """Keep the trained model's logits."""
        self.trained = list(self._logits(model))

    def measure_base(self, model: PreTrainedModel) -> None:
        """Measure how far the base is from the trained model."""
        kls = [_kl(a, b) for a, b in zip(self.trained, self._logits(model), strict=True)]
        self.adapter_kl = float(torch.cat(kls).mean())

    def prove(
        self,
        model: PreTrainedModel,
        *,
        dtype: torch.dtype,
        bound: float | None = None,
        few: tuple[str, int] | None = None,
    ) -> Proof:
        """Compare another model with the remembered one.

        Args:
            model: The written model, read again from disk.
            dtype: Of its weights on disk.
            bound: Of the mean KL; default by `dtype`.
            few: Name and bits of the weights, where they have fewer than 16.
        """
        kls, largest, agree, before, after = [], [0.0], [], [], []
        for row, a, b in zip(self.rows, self.trained, self._logits(model), strict=True):
            kls.append(_kl(a, b))
            largest.append(float((a - b).abs().max()))
            agree.append((a.argmax(-1) == b.argmax(-1)).double())
            before.append(_surprise(a, row))
            after.append(_surprise(b, row))
        return Proof(
            rows=self.label,
            tokens=sum(map(len, self.rows)),
            max_logit_difference=max(largest) if not any(map(math.isnan, largest)) else math.nan,
            mean_kl=float(torch.cat(kls).mean()),
            perplexity_before=float(torch.cat(before).mean().exp()),
            perplexity_after=float(torch.cat(after).mean().exp()),
            top1_agreement=float(torch.cat(agree).mean()),
            adapter_kl=self.adapter_kl,
            dtype=few[0] if few else str(dtype).removeprefix("torch."),
            computed_in=str(model.dtype).removeprefix("torch."),
            bound=bound if bound is not None else FEW_BITS[few[1]] if few else BOUNDS[dtype],
            bits=few and few[1],
        )

    @torch.no_grad()
    def _logits(self, model: PreTrainedModel) -> Iterator[torch.Tensor]:
        """[L, V] of each row, float32, on the CPU."""
        model.eval()
        for row in self.rows:
            yield model(input_ids=row[None].to(model.device), use_cache=False).logits[0].float().cpu()


def _kl(trained: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(trained || other) of each token, float64 [L]; rounding below zero is zero."""
    p, q = (torch.log_softmax(logits.double(), -1) for logits in (trained, other))
    return (p.exp() * (p - q)).sum(-1).clamp_min(0.0)


def _surprise(logits: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """-log p of each token but the first, float64 [L - 1]."""
    return -torch.log_softmax(logits[:-1].double(), -1).gather(1, row[1:, None])[:, 0]
