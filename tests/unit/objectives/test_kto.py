# SPDX-License-Identifier: Apache-2.0
"""KTO: the reference point of the whole step, weights, labels, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.judged import bound, judged_tree, loss_of, rows_for, said, taken, units_of

from luthier.core.errors import DataError, LuthierError
from luthier.core.trainable import Gathering
from luthier.kernels.forest import plant

TREES = rows_for("kto")


def _outputs(shift: float = 0.0) -> list[torch.Tensor]:
    return [value + shift for value in said("kto", TREES)]


def _ratios(outputs: list[torch.Tensor]) -> list[list[float]]:
    """Of each tree's children, the mismatched one last."""
    found = []
    for tree, values in zip(TREES, outputs, strict=True):
        parts = values.split([int(segment.scored.sum()) for segment in tree.segments])
        found.append(
            [
                (part - torch.from_numpy(segment.reference).double()).sum().item()
                for part, segment in zip(parts[1:], tree.segments[1:], strict=True)
            ]
        )
    return found


def test_the_reference_point_is_the_mean_of_the_steps_mismatched_answers():
    outputs = _outputs(0.4)
    expected = sum(ratios[-1] for ratios in _ratios(outputs)) / len(TREES)
    assert expected > 0
    losses = taken(bound("kto", {}), TREES, outputs, [2, 1, 2])
    assert sum(loss.metrics["z0"].item() for loss in losses) / 7 == pytest.approx(expected, rel=1e-12)


def test_it_ends_at_0():
    outputs = _outputs(-0.4)
    assert sum(ratios[-1] for ratios in _ratios(outputs)) < 0
    objective = bound("kto", {})
    loss = loss_of(objective, TREES, outputs)
    assert loss.metrics["z0"].item() == 0.0
    assert loss.total.item() == loss_of(bound("kto", {"loss_type": "apo_zero_unpaired"}), TREES, outputs).total.item()


def test_mismatched_answers_have_no_gradient():
    outputs = [value.requires_grad_() for value in _outputs(0.4)]
    loss_of(bound("kto", {}), TREES, outputs).total.backward()
    for tree, values in zip(TREES, outputs, strict=True):
        last = int(tree.segments[-1].scored.sum())
        assert values.grad[-last:].abs().max() == 0
        assert values.grad[:-last].abs().min() > 0


def test_weights_are_each_kinds_own():
    outputs = _outputs(0.1)
    plain, heavy = (
        loss_of(bound("kto", keys), TREES, outputs).total.item()
        for keys in ({"undesirable_weight": 0.0}, {"desirable_weight": 3.0, "undesirable_weight": 0.0})
    )
    both = loss_of(bound("kto", {}), TREES, outputs).total.item()
    assert heavy == pytest.approx(3 * plain, rel=1e-12)
    assert 0 < plain < both


def test_metrics_are_means_over_each_kind():
    """Engine: sums over the step, divided by its 7 judged answers. 4 of them are desirable, 3 are not."""
    outputs = _outputs(0.3)
    losses = taken(bound("kto", {"beta": 0.2}), TREES, outputs, [1, 2, 2])
    logged = {key: sum(loss.metrics[key].item() for loss in losses) / 7 for key in losses[0].metrics}
    labels = [tree.grades[1:-1] for tree in TREES]
    pairs = [pair for row in zip(_ratios(outputs), labels, strict=True) for pair in zip(row[0], row[1], strict=False)]
    good = [0.2 * ratio for ratio, label in pairs if label == 1]
    bad = [0.2 * ratio for ratio, label in pairs if label == 0]
    assert (len(good), len(bad)) == (4, 3)
    assert logged["rewards/chosen"] == pytest.approx(sum(good) / 4)
    assert logged["rewards/rejected"] == pytest.approx(sum(bad) / 3)
    assert logged["rewards/margins"] == pytest.approx(sum(good) / 4 - sum(bad) / 3)
    z0 = 0.2 * sum(ratios[-1] for ratios in _ratios(outputs)) / 5
    right = sum(reward > z0 for reward in good) + sum(reward < z0 for reward in bad)
    assert logged["rewards/accuracies"] == pytest.approx(right / 7)


def test_a_pair_is_two_answers():
    assert isinstance(bound("kto", {}), Gathering)
    assert units_of(bound("kto", {}), TREES) == 7


def test_a_row_without_another_rows_answer_is_refused():
    lonely = [judged_tree([1.0], 3)]
    outputs = said("kto", lonely)
    with pytest.raises(DataError, match=r"rows\.jsonl:3: no other row's answer stands beside it; .*apo_zero_unpaired"):
        loss_of(bound("kto", {}), lonely, outputs)
    loss = loss_of(bound("kto", {"loss_type": "apo_zero_unpaired"}), lonely, outputs)
    ratio = (outputs[0] - torch.from_numpy(lonely[0].segments[1].reference).double()).sum().item()
    assert loss.total.item() == pytest.approx(1 / (1 + math.exp(0.1 * ratio)), rel=1e-12)


@pytest.mark.parametrize("grades", [[3.0, 1.0, 0.0], [0.5]])
def test_grades_that_are_no_labels_are_refused(grades):
    with pytest.raises(DataError, match=r"rows\.jsonl:4: an answer has the grade .*1\) or not \(0\); take dpo"):
        bound("kto", {}).units(plant([judged_tree(grades, 4, mismatched=1)]))


def test_a_forest_without_the_steps_sums_is_told():
    forest = replace(plant(TREES), step={})
    with pytest.raises(LuthierError, match="does not carry the step's sums"):
        bound("kto", {}).loss(torch.cat(_outputs()), forest)
