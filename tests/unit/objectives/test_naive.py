# SPDX-License-Identifier: Apache-2.0
"""Each objective equals its paper's formula in plain float64, and cases worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.judged import VARIANTS, bound, judged_tree, loss_of, rows_for, said, units_of
from tests.unit.objectives import naive

from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.recipe.tasks import rows_of

PREFERENCE = [(name, keys) for name, keys in VARIANTS if rows_of(name) == "judged"]
LN2 = math.log(2.0)


@pytest.mark.parametrize(("name", "keys"), PREFERENCE, ids=lambda value: str(value).replace(" ", ""))
def test_it_is_the_papers_formula(name, keys):
    objective, trees = bound(name, keys), rows_for(name)
    outputs = said(name, trees)
    if name == "kto":  # a policy that moved away from the reference: z0 is above 0 and counts
        outputs = [value + 0.3 for value in outputs]
    expected = naive.total(name, trees, outputs, keys)
    if keys.get("f_divergence_type") == "alpha_divergence" and keys["f_alpha_divergence_coef"] == 1.0:
        assert expected == pytest.approx(naive.total(name, trees, outputs, {}), rel=1e-12)
    assert loss_of(objective, trees, outputs).total.item() == pytest.approx(expected, rel=1e-11)


def _pair(
    chosen: list[float], rejected: list[float], *, grades: tuple[float, ...] = (1.0, 0.0)
) -> tuple[Tree, torch.Tensor]:
    """A prompt of one token, two answers, and a reference that says -1 of every token."""
    answers = [
        Segment(
            ids=np.full(len(a), 5, np.int32), scored=np.ones(len(a), bool), reference=np.full(len(a), -1, np.float32)
        )
        for a in (chosen, rejected)
    ]
    prompt = Segment(ids=np.array([4], np.int32), scored=np.zeros(1, bool))
    tree = Tree(segments=(prompt, *answers), parents=(-1, 0, 0), grades=(math.nan, *grades), row="rows.jsonl:1")
    return tree, torch.tensor(chosen + rejected, dtype=torch.float64)


# Log-ratios: chosen (-0.5 + 1) + (-0.5 + 1) = 1, rejected (-3 + 1) = -2; their difference is 3, per token 2.5.
BY_HAND = [
    ("dpo", {"beta": 0.5}, math.log1p(math.exp(-1.5))),
    ("dpo", {"beta": 0.5, "length_normalized": True}, math.log1p(math.exp(-1.25))),
    ("dpo", {"beta": 0.5, "label_smoothing": 0.1}, math.log1p(math.exp(-1.5)) + 0.1 * 1.5),
    ("dpo", {"beta": 0.5, "loss_type": "robust", "label_smoothing": 0.1}, math.log1p(math.exp(-1.5)) - 1.5 / 8),
    ("dpo", {"beta": 0.2, "loss_type": "hinge"}, 0.4),
    ("dpo", {"beta": 0.5, "loss_type": "hinge"}, 0.0),
    ("dpo", {"beta": 0.5, "loss_type": "sppo_hard"}, 1.0),
    ("dpo", {"beta": 1.0, "loss_type": "hinge", "f_divergence_type": "forward_kl"}, 0.0),
    ("dpo", {"beta": 0.5, "sft_weight": 2.0}, math.log1p(math.exp(-1.5)) + 1.0),
    ("ipo", {"beta": 0.5}, 2.25),
    ("ipo", {"beta": 0.5, "length_normalized": False}, 4.0),
    ("simpo", {"beta": 2.0, "simpo_gamma": 1.0}, math.log1p(math.exp(-4.0))),
    ("cpo", {"beta": 0.5}, math.log1p(math.exp(-1.0)) + 0.5),
    ("cpo", {"beta": 0.25, "loss_type": "hinge", "cpo_alpha": 0.0}, 0.5),
]


@pytest.mark.parametrize(("name", "keys", "expected"), BY_HAND, ids=str)
def test_by_hand(name, keys, expected):
    tree, outputs = _pair([-0.5, -0.5], [-3.0])
    assert loss_of(bound(name, keys), [tree], [outputs]).total.item() == pytest.approx(expected, rel=1e-12)
    assert units_of(bound(name, keys), [tree]) == 1


def test_orpo_by_hand():
    """Probabilities of 0.75 and 0.25 a token: odds of 3 and 1/3, an odds ratio of 9."""
    tree, outputs = _pair([math.log(0.75)] * 2, [math.log(0.25)])
    expected = -math.log(0.75) + 0.5 * math.log(10 / 9)
    loss = loss_of(bound("orpo", {"beta": 0.5}), [tree], [outputs])
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert loss.metrics["log_odds_chosen"].item() == pytest.approx(math.log(9), rel=1e-12)


def test_reward_by_hand():
    tree, _ = _pair([-1.0], [-1.0])
    tree = replace(tree, scores=(0.0, 8.5, 7.0))
    values = torch.tensor([9.0, 2.0, 0.5], dtype=torch.float64)  # the prompt's own value is nobody's
    loss = loss_of(bound("reward", {"center_rewards_coefficient": 0.1}), [tree], [values])
    assert loss.total.item() == pytest.approx(LN2 + 0.625, rel=1e-12)
    assert {key: value.item() for key, value in loss.metrics.items()} == {
        "accuracy": 1.0,
        "margin": 1.5,
        "mean_reward": 1.25,
        "min_reward": 0.5,
        "max_reward": 2.0,
    }


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, LN2),
        ({"label_smoothing": 0.2}, LN2),
        ({"loss_type": "robust", "label_smoothing": 0.2}, LN2),
        ({"loss_type": "hinge"}, 1.0),
        ({"loss_type": "exo_pair", "label_smoothing": 0.01}, -LN2 - 0.5 * math.log(0.99 * 0.01)),
        ({"loss_type": "nca_pair"}, 2 * LN2),
        ({"loss_type": "apo_zero"}, 1.0),
        ({"loss_type": "apo_down"}, 1.0),
        ({"loss_type": "sppo_hard", "beta": 0.1}, 50.0),
        ({"loss_type": "discopop"}, 0.5 * LN2 + 0.5),
        ({"f_divergence_type": "js_divergence"}, LN2),
        ({"sft_weight": 0.1}, None),
    ],
)
def test_dpo_at_the_start(keys, expected):
    assert bound("dpo", keys).loss_at_start == (expected and pytest.approx(expected, rel=1e-12))


def test_others_at_the_start():
    starts = {name: bound(name, {}).loss_at_start for name in ("ipo", "kto", "simpo", "cpo", "orpo", "reward")}
    assert starts == {"ipo": pytest.approx(25.0), "kto": 0.5, "simpo": None, "cpo": None, "orpo": None, "reward": None}
    assert bound("kto", {"desirable_weight": 2.0}).loss_at_start is None


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "cpo", "orpo"])
def test_a_ranked_list_is_all_its_pairs(name):
    """Three graded answers are three rows of two: the same loss, whatever the grades' distance."""
    ranked = judged_tree([3.0, -1.0, 2.5], 5)
    outputs = said(name, [ranked])[0]
    sizes = [int(segment.scored.sum()) for segment in ranked.segments]
    parts = outputs.split(sizes)
    rows, logps = [], []
    for better, worse in ((1, 3), (1, 2), (3, 2)):
        chosen = tuple(ranked.segments[place] for place in (0, better, worse))
        rows.append(replace(ranked, segments=chosen, parents=(-1, 0, 0), grades=(math.nan, 1.0, 0.0)))
        logps.append(torch.cat([parts[better], parts[worse]]))
    objective = bound(name, {})
    expected, loss = loss_of(objective, rows, logps), loss_of(objective, [ranked], [outputs])
    assert units_of(objective, [ranked]) == units_of(objective, rows) == 3
    assert loss.total.item() == pytest.approx(expected.total.item(), rel=1e-12)
    for key, value in expected.metrics.items():
        assert loss.metrics[key].item() == pytest.approx(value.item(), rel=1e-12), key


def test_discopop_stays_finite_where_its_factors_do_not():
    """exp(1000) is infinite and sigmoid(-20000) is 0; their product, as TRL computes it, is no number."""
    tree, outputs = _pair([-10001.0], [-1.0])
    loss = loss_of(bound("dpo", {"loss_type": "discopop"}), [tree], [outputs.float()])
    assert loss.total.item() == pytest.approx(1000.0, rel=1e-6)


@pytest.mark.parametrize("logp", [-1e-3, -1e-6, -0.6931, -0.6932, -30.0])
def test_log_odds_keep_their_digits(logp):
    """1 - exp(-1e-6) loses seven of float64's sixteen digits, and all of float32's."""
    from luthier.objectives.orpo import log_odds

    exact = logp - math.log(-math.expm1(logp))
    assert log_odds(torch.tensor(logp, dtype=torch.float64)).item() == pytest.approx(exact, rel=1e-13)
    assert log_odds(torch.tensor(logp)).item() == pytest.approx(exact, rel=1e-5, abs=1e-6)


def test_a_certain_answer_has_a_gradient_that_pushes():
    """Probability 1 in float32: the slope of the log-odds is 1 / eps there, not 0 and not infinite."""
    from luthier.objectives.orpo import log_odds

    logp = torch.zeros(1, requires_grad=True)
    log_odds(logp).sum().backward()
    assert logp.grad.item() == pytest.approx(1 / torch.finfo(torch.float32).eps, rel=1e-3)


def test_sums_are_of_the_forest():
    forest = plant(rows_for("dpo"))
    assert bound("dpo", {}).units(forest) == 1 + 3 + 0 + 5 + 1
