# SPDX-License-Identifier: Apache-2.0
"""Does a model with a head (values, labels, spans) or without one behave, once written, like the one that was trained?

What it gives has no unit, so differences are told as shares of its spread: the standard deviation of the trained
model's numbers over all tokens (of an encoder that classifies, over texts: each row and three of its beginnings). What
matters of a reward is which of two texts has more of it, so the order is compared too.

Shapes: L tokens of one row (or texts made of it), C numbers of each.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import RunFailed
from luthier.models.encoders import reads_both_ways, tokens_of
from luthier.models.heads import task_of_model
from luthier.models.values import value_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from luthier.core.tasks import Task

# Root mean square of the difference as a share of the spread that rounding the merged weights once may cost.
BOUNDS = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# A short training may move a model by less than the bound. Then losing half of it fails too, above this share of it.
NOISE = 1 / 50
MOST_TOKENS = 4096
_TINY = 1e-12  # a spread of zero (all values equal) is no unit
_WHAT: dict[Task, str] = {
    "SEQ_CLS": "values after {} tokens",
    "TOKEN_CLS": "logits of labels of {} tokens",
    "QUESTION_ANS": "logits of spans of {} tokens",
    "FEATURE_EXTRACTION": "hidden states of {} tokens",
}


@dataclass(frozen=True, kw_only=True)
class ValueProof:
    """How far the written model is from the trained one.

    Attributes:
        what: What is compared, and of how many tokens or texts.
        rows: Where the tokens come from.
        tokens: How many.
        max_value_difference: Largest absolute difference of two values.
        relative_difference: Root mean square of all differences, as a share of the trained values' spread.
        order_agreement: Share of pairs of neighbouring tokens whose values both models put in the same order.
        adapter_difference: Root mean square of trained minus base, as a share of the spread: the scale for the others.
        spread: Standard deviation of the trained model's values.
        dtype: Of the written weights.
        computed_in: Numbers of both forward passes.
        bound: What `relative_difference` may be at most.
    """

    what: str
    rows: str
    tokens: int
    max_value_difference: float
    relative_difference: float
    order_agreement: float
    adapter_difference: float
    spread: float
    dtype: str
    computed_in: str
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the written model is within the bound and keeps most of what was trained; false for NaN."""
        far = self.relative_difference
        lost = far > 0.5 * self.adapter_difference and far > NOISE * self.bound
        return far <= self.bound and not lost and math.isfinite(self.max_value_difference)

    @property
    def distance(self) -> float:
        """How far the two are apart, to choose between exports; NaN is farther than anything."""
        return math.inf if math.isnan(self.relative_difference) else self.relative_difference

    def to_json(self) -> dict[str, Any]:
        """The numbers and the verdict, for merge_proof.json."""
        numbers = asdict(self)
        if math.isnan(self.adapter_difference):
            numbers["adapter_difference"] = None  # JSON has no NaN
        return {**numbers, "holds": self.holds}

    def told(self) -> str:
        """One line for a person."""
        base = self.adapter_difference
        moved = "" if math.isnan(base) else f" (training had moved the base by {base:.2g})"
        return (
            f"{self.what} compared ({self.rows}): they differ by "
            f"{self.relative_difference:.2g} of their spread {self.spread:.3g}{moved}, "
            f"at most by {self.max_value_difference:.2g}, "
            f"and agree on the order of {self.order_agreement:.2%} of all pairs"
        )

    def demand(self, where: str) -> None:
        """Fail where the bound is broken.

        Raises:
            RunFailed: It is; the numbers are in the message.
        """
        if not self.holds:
            fix = "give --dtype float32, or a larger --bound if you know why"
            allowed = f"at most {self.bound:g} of the spread for {self.dtype}, and half of what training changed"
            raise RunFailed(where, f"the written model is not the trained one: {self.told()}", allowed, fix)


class ValueComparison:
    """Remembers what the trained model says on some rows, to be held against another model.

    Args:
        rows: Token ids; up to `MOST_TOKENS` are used.
        label: Where they come from.
    """

    def __init__(self, rows: Sequence[Sequence[int]], label: str) -> None:
        self.label = label
        self.rows: list[torch.Tensor] = []
        left = MOST_TOKENS
        for row in rows:
            if min(len(row), left) > 1:
                self.rows.append(torch.tensor(row[:left]))
                left -= len(self.rows[-1])
        self.trained: list[torch.Tensor] = []
        self.adapter_difference = math.nan

    def remember(self, model: PreTrainedModel) -> None:
        """Keep the trained model's values."""
        self.trained = list(self._values(model))

    def measure_base(self, model: PreTrainedModel) -> None:
        """Measure how far the base, with the head that it had, is from the trained model."""
        self.adapter_difference = self._share(list(self._values(model)))

    def prove(self, model: PreTrainedModel, *, dtype: torch.dtype, bound: float | None = None) -> ValueProof:
        """Compare another model with the remembered one.

        Args:
            model: The written model, read again from disk.
            dtype: Of its weights on disk.
            bound: Of the relative difference; default by `dtype`.
        """
        again = list(self._values(model))
        differences = torch.cat([a - b for a, b in zip(self.trained, again, strict=True)]).abs()
        agree = [(a.diff(dim=0).sign() == b.diff(dim=0).sign()) for a, b in zip(self.trained, again, strict=True)]
        return ValueProof(
            rows=self.label,
            tokens=sum(map(len, self.trained)),
            what=self._what(model),
            max_value_difference=float(differences.max()),
            relative_difference=self._share(again),
            order_agreement=float(torch.cat(agree).double().mean()),
            adapter_difference=self.adapter_difference,
            spread=self._spread(),
            dtype=str(dtype).removeprefix("torch."),
            computed_in=str(model.dtype).removeprefix("torch."),
            bound=BOUNDS[dtype] if bound is None else bound,
        )

    def _spread(self) -> float:
        return float(torch.cat(self.trained).std(dim=0).mean())

    def _share(self, other: list[torch.Tensor]) -> float:
        differences = torch.cat([a - b for a, b in zip(self.trained, other, strict=True)])
        return float(differences.square().mean().sqrt()) / max(self._spread(), _TINY)

    @torch.no_grad()
    def _values(self, model: PreTrainedModel) -> Iterator[torch.Tensor]:
        """[L, C] of each row, float64, on the CPU: of a decoder's values, the head on every hidden state."""
        head: Any = value_head(model)
        asked = model if head is None else model.get_decoder()
        words: dict[str, Any] = {} if reads_both_ways(model) else {"use_cache": False}
        model.eval()
        for row in self.rows:
            ids = row[None].to(model.device)
            if head is None and task_of_model(model) == "SEQ_CLS":
                ends = sorted({max(1, len(row) * quarter // 4) for quarter in (1, 2, 3, 4)})
                yield torch.cat([asked(input_ids=ids[:, :end], **words).logits for end in ends]).double().cpu()
                continue
            output = asked(input_ids=ids, **words)
            found = tokens_of(output) if head is None else head(output.last_hidden_state)
            yield found[0].double().cpu()

    def _what(self, model: PreTrainedModel) -> str:
        count, task = f"{sum(map(len, self.trained)):,}", task_of_model(model)
        of_texts = task == "SEQ_CLS" and value_head(model) is None
        return f"values of {count} texts" if of_texts else _WHAT[task].format(count)
