# SPDX-License-Identifier: Apache-2.0
"""Sums over answers, the pairs among them, and what is logged of them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.judged import bound, judged_tree, loss_of, rows_for, said

from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.objectives._answers import answers_of, count_pairs, pairs_of

GRADES = st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), max_size=5), min_size=1, max_size=5)


@given(GRADES, st.integers(0, 2))
def test_pairs_are_all_pairs(grades, mismatched):
    forest = plant([judged_tree(row, seed, mismatched=mismatched) for seed, row in enumerate(grades)])
    expected, first = [], 0
    for row in grades:
        for i, j in combinations(range(len(row)), 2):
            if row[i] != row[j]:
                a, b = (i, j) if row[i] > row[j] else (j, i)
                expected.append((first + 1 + a, first + 1 + b))
        first += 1 + len(row) + mismatched
    pairs = pairs_of(forest, torch.zeros(1))
    assert list(zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True)) == expected
    assert count_pairs(forest) == len(expected)
    assert pairs.margin.tolist() == [0.0] * len(expected)


def test_margins_are_differences_of_scores():
    forest = plant([judged_tree([0.0, 1.0], 0, scores=[7.25, 9.0]), judged_tree([1.0, 0.0], 1)])
    pairs = pairs_of(forest, torch.zeros(1, dtype=torch.float64))
    assert pairs.margin.tolist() == [1.75, 0.0]
    assert pairs.margin.dtype == torch.float64


def test_sums_and_lengths_are_each_segments_own():
    trees = rows_for("dpo")
    forest = plant(trees)
    outputs = torch.cat(said("dpo", trees))
    answers = answers_of(outputs, forest)
    for segment in range(len(forest.parents)):
        mine = forest.score_segment == segment
        ratios = outputs[mine] - forest.reference[mine].double()
        assert answers.logps[segment].item() == pytest.approx(outputs[mine].sum().item(), rel=1e-12)
        assert answers.ratios[segment].item() == pytest.approx(ratios.sum().item(), rel=1e-12, abs=1e-12)
        assert answers.lengths[segment].item() == max(1, int(mine.sum()))
        k2 = 0.5 * (ratios**2).sum().item() / max(1, int(mine.sum()))
        assert answers.kl[segment].item() == pytest.approx(k2, rel=1e-9, abs=1e-12)


def test_an_answer_without_scored_tokens_is_0():
    """An answer may have been cut away; the mean over its tokens is then no division by 0."""
    cut = Segment(ids=np.zeros(0, np.int32), scored=np.zeros(0, bool), reference=np.zeros(0, np.float32))
    tree = judged_tree([1.0, 0.0], 3)
    forest = plant([replace(tree, segments=(*tree.segments[:2], cut))])
    answers = answers_of(torch.full((forest.num_scored,), -2.0), forest)
    assert (answers.logps[2].item(), answers.ratios[2].item(), answers.mean_logps[2].item()) == (0.0, 0.0, 0.0)


def test_16_bits_are_summed_in_32():
    tree = judged_tree([1.0, 0.0], 1, reference=False)
    outputs = said("dpo", [tree], torch.bfloat16)[0]
    answers = answers_of(outputs, plant([tree]))
    assert answers.logps.dtype == torch.float32
    assert answers.logps.sum().item() == pytest.approx(outputs.double().sum().item(), rel=1e-6)


def test_a_policy_that_is_the_reference_has_ratios_of_exactly_0():
    long = Segment(
        ids=np.full(1000, 7, np.int32),
        scored=np.ones(1000, bool),
        reference=np.random.default_rng(0).normal(-9, 3, 1000).astype(np.float32),
    )
    prompt = judged_tree([], 0).segments[0]
    forest = plant([Tree(segments=(prompt, long), parents=(-1, 0), grades=(math.nan, 1.0))])
    answers = answers_of(forest.reference, forest)
    assert answers.ratios.tolist() == [0.0, 0.0]
    assert answers.kl.tolist() == [0.0, 0.0]


def test_metrics_are_sums_over_pairs():
    tree = judged_tree([0.0, 1.0], 6)  # the rejected answer stands first
    rejected, chosen = (int(segment.scored.sum()) for segment in tree.segments[1:])
    outputs = said("dpo", [tree])[0]
    metrics = loss_of(bound("dpo", {"beta": 0.2}), [tree, tree], [outputs, outputs]).metrics
    ratio = outputs - torch.cat([torch.from_numpy(segment.reference) for segment in tree.segments]).double()
    better, worse = 0.2 * ratio[rejected:].sum().item(), 0.2 * ratio[:rejected].sum().item()
    assert {key: value.item() for key, value in metrics.items() if key != "kl"} == {
        "rewards/chosen": pytest.approx(2 * better),
        "rewards/rejected": pytest.approx(2 * worse),
        "rewards/margins": pytest.approx(2 * (better - worse)),
        "rewards/accuracies": 2.0 * (better > worse),
        "logps/chosen": pytest.approx(2 * outputs[rejected:].sum().item()),
        "logps/rejected": pytest.approx(2 * outputs[:rejected].sum().item()),
        "length/chosen": 2.0 * chosen,
        "length/rejected": 2.0 * rejected,
    }
    k2 = ratio**2 / 2
    assert metrics["kl"].item() == pytest.approx((k2[:rejected].mean() + k2[rejected:].mean()).item())


def test_kl_is_the_divergence_near_the_reference():
    """The mean of half the squared log-ratio over samples of the policy is KL(policy | reference) to the second order."""
    logits = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    for step in (1e-2, 1e-3):
        policy, reference = (logits + step * torch.tensor([0.5, -1.0, 0.3])).log_softmax(-1), logits.log_softmax(-1)
        exact = (policy.exp() * (policy - reference)).sum().item()
        assert (policy.exp() * (policy - reference).square() / 2).sum().item() == pytest.approx(exact, rel=2 * step)
