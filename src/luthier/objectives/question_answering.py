# SPDX-License-Identifier: Apache-2.0
"""Question answering: the span of a context that answers a question, by a logit of start and end for each token.

Shapes: T tokens, N segments, B windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from luthier.core.trainable import Loss
from luthier.kernels.spans import Best, best_spans
from luthier.metrics.f1 import harmonic
from luthier.objectives._answers import widened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.kernels.forest import Forest

ROWS = "question"
TASKS = ("QUESTION_ANS",)
DEFAULT_FOR = "QUESTION_ANS"


class Config(BaseModel):
    """The keys of question answering, spelt as in transformers' example; they say how an answer is read."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    max_answer_length: Annotated[int, Field(ge=1)] = 30
    """Tokens of a predicted answer at most."""
    version_2_with_negative: bool = False
    """Some contexts hold no answer, as in SQuAD 2: `no answer` may be predicted of a question, not only of a window."""
    null_score_diff_threshold: float = 0.0
    """`No answer` is predicted where its score is higher than the best answer's by more than this."""


@dataclass(frozen=True)
class QuestionAnswering:
    """The mean of two cross entropies over the tokens of a window: which one starts the answer, which one ends it.

    The loss of transformers' `...ForQuestionAnswering` on windows without padding (it counts padding as tokens that
    might be right). A window without the answer is to point at its first token. Evaluations while training compare
    tokens, window by window; `luthier evaluate` compares texts, question by question.

    Reference:
        Devlin et al., arXiv 1810.04805, sections 4.2 and 4.3.
    """

    config: Config
    reference: bool = False
    loss_at_start: float | None = None

    def units(self, forest: Forest) -> int:
        """Windows with a target."""
        return sum(map(bool, forest.targets))

    def loss(self, outputs: torch.Tensor, forest: Forest) -> Loss:
        """The sum over windows.

        Args:
            outputs: Logits of start and end of each token, [T, 2].
            forest: With targets: first and last token of the answer in its window.
        """
        logits = widened(outputs)
        lengths = torch.tensor(forest.lengths(), device=logits.device)
        highest = torch.segment_reduce(logits.detach(), "max", lengths=lengths, axis=0, unsafe=True, initial=-torch.inf)
        owner = torch.repeat_interleave(lengths, output_size=len(logits))
        powers = (logits - highest[owner]).exp()
        sums = torch.segment_reduce(powers, "sum", lengths=lengths, axis=0, unsafe=True, initial=0.0)
        segments, targets = _known(forest)
        chosen = torch.from_numpy(segments).to(logits.device)
        places = torch.from_numpy(targets + np.array(forest.starts)[segments][:, None]).to(logits.device)
        total_B2 = sums[chosen].log() + highest[chosen] - logits.gather(0, places)
        metrics = {"loss_start": total_B2[:, 0].detach().sum(), "loss_end": total_B2[:, 1].detach().sum()}
        return Loss(total=total_B2.sum() / 2, metrics=metrics)

    def records(self, outputs: torch.Tensor, forest: Forest) -> Mapping[str, torch.Tensor]:
        """First and last token of the predicted and of the right answer, of each window; (0, 0) for none."""
        logits = widened(outputs.detach()).cpu().numpy()
        segments, targets = _known(forest)
        labels = None if forest.labels is None else forest.labels.cpu().numpy()
        predicted = np.zeros((len(segments), 2), np.int64)
        for row, segment in enumerate(segments):
            span = slice(forest.starts[segment], forest.starts[segment + 1])
            here = logits[span]
            allowed = labels[span] >= 0 if labels is not None else np.arange(len(here)) > 0
            predicted[row] = self.answer(here, allowed)[1:]
        return {"predicted": torch.from_numpy(predicted), "target": torch.from_numpy(targets)}

    def answer(self, logits: np.ndarray, allowed: np.ndarray) -> Best:
        """The answer in a window, (0, 0) for none.

        Args:
            logits: Of start and end, [L, 2].
            allowed: Tokens that an answer may have, bool [L].
        """
        nothing = Best(float(logits[0].sum()), 0, 0)
        found = best_spans(logits, allowed, self.config.max_answer_length)
        return (
            found[0] if found and nothing.score - found[0].score <= self.config.null_score_diff_threshold else nothing
        )

    def metrics(self, records: Mapping[str, torch.Tensor]) -> Mapping[str, float]:
        """The share of windows with exactly the right tokens, and F1 of the tokens, as a mean over windows."""
        predicted, target = records["predicted"].numpy(), records["target"].numpy()
        if not len(target):
            return {"exact_match": float("nan"), "f1": float("nan")}
        first = np.maximum(predicted[:, 0], target[:, 0])
        last = np.minimum(predicted[:, 1], target[:, 1])
        shared = np.clip(last - first + 1, 0, None)
        lengths = predicted[:, 1] - predicted[:, 0] + 1, target[:, 1] - target[:, 0] + 1
        scores = [harmonic(*map(float, one)) for one in zip(shared, *lengths, strict=True)]
        return {"exact_match": float((predicted == target).all(axis=1).mean()), "f1": float(np.mean(scores))}


def _known(forest: Forest) -> tuple[np.ndarray, np.ndarray]:
    """Segments of the windows with a target, int64 [B], and first and last token of their answers, int64 [B, 2]."""
    last = {tree: segment for segment, tree in enumerate(forest.trees)}
    known = [tree for tree, target in enumerate(forest.targets) if target]
    targets = np.array([forest.targets[tree] for tree in known], np.int64).reshape(-1, 2)
    return np.array([last[tree] for tree in known], np.int64), targets


def bind(config: Config) -> QuestionAnswering:
    """The objective for one run."""
    return QuestionAnswering(config)
