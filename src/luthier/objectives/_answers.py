# SPDX-License-Identifier: Apache-2.0
"""What preference objectives share: log-probabilities of whole answers, the pairs among them, and their metrics.

Shapes: S scored tokens, N segments, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from luthier.core.errors import LuthierError

if TYPE_CHECKING:
    from luthier.kernels.forest import Forest

LARGEST_EXPONENT = 80.0  # exp(80) = 5.5e34 and its products with any beta stay below float32's largest, 3.4e38


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the model says of each segment.

    Attributes:
        logps: Sum of the log-probabilities of its scored tokens, [N].
        lengths: Its scored tokens, [N], 1 at least: what means are divided by.
        ratios: Log-ratio of policy and reference, log pi(y|x) - log pi_ref(y|x), [N]; None without a reference.
        kl: Half the mean square of its tokens' log-ratios, [N], no gradient; or None. It estimates the KL divergence
            from the reference (Schulman's k2) and grows with the square of the distance; exp(-r) - 1 + r (k3), as good
            on samples of the policy, was 1e6 on answers of the data that the policy has given up.
    """

    logps: torch.Tensor
    lengths: torch.Tensor
    ratios: torch.Tensor | None = None
    kl: torch.Tensor | None = None

    @property
    def mean_logps(self) -> torch.Tensor:
        """Log-probability per token, [N]."""
        return self.logps / self.lengths


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """All pairs of answers to one prompt whose grades differ.

    Attributes:
        better: Segment of the answer with the higher grade, int64 [P].
        worse: Segment of the other, int64 [P].
        margin: By how much the better one's score is higher in the data's own unit, [P]; 0 where it has no scores.
    """

    better: torch.Tensor
    worse: torch.Tensor
    margin: torch.Tensor


def answers_of(outputs: torch.Tensor, forest: Forest) -> Answers:
    """Log-probabilities of each segment's scored tokens together.

    Args:
        outputs: Log-probability of each scored token, [S].
        forest: Of the same tokens; without `Forest.reference` there are no ratios.
    """
    outputs = widened(outputs)
    bounds = torch.searchsorted(
        forest.score_segment, torch.arange(len(forest.parents) + 1, device=forest.score_segment.device)
    )
    counts = bounds.diff()
    lengths = counts.clamp(min=1).to(outputs.dtype)
    if forest.reference is None:
        return Answers(logps=_summed(outputs, counts), lengths=lengths)
    # Summed as differences: exactly 0 where the two agree, and 1,000 tokens' rounding does not enter twice.
    ratios = outputs - forest.reference.to(outputs)
    return Answers(
        logps=_summed(outputs, counts),
        lengths=lengths,
        ratios=_summed(ratios, counts),
        kl=_summed(ratios.detach().square(), counts) / (2 * lengths),
    )


def ratios_of(answers: Answers) -> torch.Tensor:
    """Log-ratio of policy and reference for each segment, [N].

    Raises:
        LuthierError: The forest came without the reference's log-probabilities.
    """
    if answers.ratios is None:
        raise LuthierError(
            "objective",
            "the forest does not say what the reference model says",
            "this objective compares the model with a reference",
            "fill Forest.reference (Segment.reference of each tree) before loss is called",
        )
    return answers.ratios


def widened(values: torch.Tensor) -> torch.Tensor:
    """The same numbers in float32 at least: sums over an answer lose their last digits in 16 bits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def count_pairs(forest: Forest) -> int:
    """Pairs of answers to one prompt whose grades differ."""
    return len(_pairs(forest)[0])


def pairs_of(forest: Forest, like: torch.Tensor) -> Pairs:
    """Find all pairs of answers inside a tree whose grades differ.

    K answers with different grades are K (K - 1) / 2 pairs. Equal grades make no pair, and a segment without a grade
    (NaN) takes no part.

    Args:
        forest: With grades.
        like: A tensor with the device for indices and margins, and the margins' dtype.

    Example:
        >>> from types import SimpleNamespace
        >>> nan = float("nan")
        >>> ranked = SimpleNamespace(grades=(nan, 1.0, 3.0, 2.0), scores=(), trees=(0, 0, 0, 0))
        >>> pairs = pairs_of(ranked, torch.zeros(1))
        >>> list(zip(pairs.better.tolist(), pairs.worse.tolist()))
        [(2, 1), (3, 1), (2, 3)]
    """
    better, worse = _pairs(forest)
    scores = np.array(forest.scores or np.zeros(len(forest.grades)), np.float64)
    return Pairs(
        better=torch.from_numpy(better).to(like.device, non_blocking=True),
        worse=torch.from_numpy(worse).to(like.device, non_blocking=True),
        margin=torch.from_numpy(scores[better] - scores[worse]).to(like.device, like.dtype, non_blocking=True),
    )


def _pairs(forest: Forest) -> tuple[np.ndarray, np.ndarray]:
    grades = np.array(forest.grades, np.float64)
    judged = np.flatnonzero(~np.isnan(grades))
    tree = np.array(forest.trees, np.int64)[judged]
    grade = grades[judged]
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    # A tree's answers stand together, so those `apart` places away are all that an answer is compared with:
    # K - 1 vectorised passes for the longest list of K, where a table of all answers would be quadratic.
    for apart in range(1, len(judged)):
        together = np.flatnonzero(tree[apart:] == tree[:-apart])
        if not len(together):
            break
        first.append(together)
        second.append(together + apart)
    left, right = np.concatenate(first), np.concatenate(second)
    differ = grade[left] != grade[right]
    left, right = left[differ], right[differ]
    order = np.lexsort((right, left))  # as the rows stand
    left, right = left[order], right[order]
    swapped = grade[left] < grade[right]
    return judged[np.where(swapped, right, left)], judged[np.where(swapped, left, right)]


def smoothed_logistic(logits: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """The logistic loss of a label that is wrong with probability `label_smoothing`.

        -(1 - eps) log sigmoid(x) - eps log sigmoid(-x)

    Reference:
        Mitchell, A note on DPO with noisy preferences (conservative DPO), 2023.
    """
    loss = -F.logsigmoid(logits)
    return loss + label_smoothing * logits if label_smoothing else loss  # log sigmoid(-x) = log sigmoid(x) - x


def pair_metrics(answers: Answers, pairs: Pairs, rewards: torch.Tensor, logps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums over pairs of what is logged, under TRL's names.

    Args:
        answers: Of the same forest.
        pairs: Likewise.
        rewards: The implicit reward of each segment, [N].
        logps: What stands as `logps/*`: sums or means over an answer's tokens, [N].
    """
    rewards, logps = rewards.detach(), logps.detach()
    chosen, rejected = rewards[pairs.better], rewards[pairs.worse]
    metrics = {
        "rewards/chosen": chosen.sum(),
        "rewards/rejected": rejected.sum(),
        "rewards/margins": (chosen - rejected).sum(),
        "rewards/accuracies": (chosen > rejected).to(rewards.dtype).sum(),
        "logps/chosen": logps[pairs.better].sum(),
        "logps/rejected": logps[pairs.worse].sum(),
        "length/chosen": answers.lengths[pairs.better].sum(),
        "length/rejected": answers.lengths[pairs.worse].sum(),
    }
    if answers.kl is not None:
        metrics["kl"] = (answers.kl[pairs.better] + answers.kl[pairs.worse]).sum() / 2
    return metrics


def _summed(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    # The tokens of a segment stand together. Unlike index_add_, whose additions a GPU orders as it likes, this gives
    # the same bits each time; `unsafe` spares it a wait for the device to check the counts.
    return torch.segment_reduce(values, "sum", lengths=counts, unsafe=True, initial=0.0)
