# SPDX-License-Identifier: Apache-2.0
"""The sign-flip test against scipy and against all signs, Holm's correction against its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.evaluate.bootstrap import bootstrap
from luthier.evaluate.significance import FLIPS, holm, p_value, sign_flip, smallest_seen, t_test
from luthier.evaluate.statistics import Estimate, crossed

whole = st.lists(st.integers(-5, 5), min_size=1, max_size=9)


def naive(values: list[float]) -> float:
    """Every sign of every value."""
    seen = abs(sum(values))
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return sum(abs(total) >= seen - 1e-9 for total in sums) / len(sums)


@given(whole)
def test_whole_numbers_have_the_exact_answer(values):
    assert sign_flip(values) == pytest.approx(naive(values), rel=1e-12)


@given(st.lists(st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3), min_size=1, max_size=9))
def test_few_uneven_numbers_try_every_sign(values):
    assert sign_flip(values) == pytest.approx(naive(values), rel=1e-12)


@pytest.mark.parity
def test_many_uneven_numbers_are_scipys_permutation_test():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    for shift in (0.0, 0.15, 0.3):
        values = random.normal(shift, 1.0, 80)
        theirs = stats.permutation_test(
            (values, np.zeros(80)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=20_000,
            rng=random,
        )  # fmt: skip
        error = 4 * math.sqrt(max(theirs.pvalue * (1 - theirs.pvalue), 1e-4) / FLIPS)
        assert sign_flip(values) == pytest.approx(theirs.pvalue, abs=error)


@pytest.mark.parity
def test_one_seed_is_the_exact_binomial_test_of_mcnemar():
    stats = pytest.importorskip("scipy.stats")
    values = [1] * 31 + [-1] * 14 + [0] * 555
    assert sign_flip(values) == pytest.approx(stats.binomtest(31, 45).pvalue, rel=1e-12)


def test_many_whole_numbers_are_exact_far_out():
    """600 items all up: 2 of 2^600. Drawn signs could not tell less than 1 in 10,000."""
    assert sign_flip([5] * 600) == pytest.approx(2.0**-599)
    assert sign_flip(np.tile([1, -1], 300)) == 1.0


def test_drawn_signs_are_never_certain_and_always_the_same():
    values = np.full(50, 1.5) + np.linspace(0, 0.1, 50)
    assert sign_flip(values) == 1 / (FLIPS + 1)  # (b + 1) / (n + 1) with b = 0
    mixed = values * np.where(np.arange(50) % 3, 1, -1)
    assert sign_flip(mixed) == sign_flip(mixed)
    assert sign_flip(mixed) == sign_flip(-mixed)


def test_nothing_to_flip():
    assert sign_flip([0, 0, 0]) == 1.0
    assert sign_flip([0.0, 0.0]) == 1.0
    assert math.isnan(sign_flip([]))
    assert sign_flip([0.25]) == 1.0


def test_a_test_of_equals_calls_one_in_twenty():
    random = np.random.default_rng(1)
    found = [sign_flip(random.choice([-1, 0, 0, 1], 60)) for _ in range(2000)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.04, abs=0.012)  # whole numbers: a little below 0.05


@pytest.mark.parity
def test_the_t_test_is_scipys_over_seeds():
    """Seeds that differ on few items: nearly all of the error is theirs, and so are the degrees of freedom."""
    stats = pytest.importorskip("scipy.stats")
    by_seed = np.array([0.1, 0.3, 0.15, 0.22])
    table = np.repeat(by_seed[:, None], 5000, axis=1)
    table[:, ::2] += 1e-6
    theirs = stats.ttest_1samp(table.mean(axis=1), 0.0)
    assert t_test(crossed(table)) == pytest.approx(theirs.pvalue, rel=1e-6)
    alone = np.random.default_rng(2).normal(0.1, 1, (1, 90))
    assert t_test(crossed(alone)) == pytest.approx(stats.ttest_1samp(alone[0], 0.0).pvalue, rel=1e-9)


def test_t_test_edges():
    assert t_test(Estimate(value=0.0, stderr=0.0)) == 1.0
    assert t_test(Estimate(value=0.1, stderr=0.0)) == 0.0
    assert math.isnan(t_test(Estimate(value=0.1, stderr=math.nan)))


def test_several_seeds_must_bear_a_difference_out():
    """One seed better by much, the others not at all: item by item it is clear, over seeds it is not."""
    table = np.zeros((3, 200))
    table[0, :60] = 1.0
    found = crossed(table)
    assert sign_flip(table.sum(axis=0)) < 1e-9
    assert p_value(found, table.sum(axis=0), 3) == t_test(found) > 0.3
    assert p_value(crossed(table[:1]), table[0], 1) == sign_flip(table[0])
    few = np.zeros((3, 200))
    few[:, :4] = 1.0  # all seeds agree on four items: over items it is not clear
    assert p_value(crossed(few), few.sum(axis=0), 3) == sign_flip(few.sum(axis=0)) == 0.125


def test_p_and_interval_tell_the_same():
    """But for the drawing and for counts of a few items, p <= 0.05 where the interval leaves out 0."""
    random, apart = np.random.default_rng(3), 0
    for _ in range(200):
        seeds = int(random.integers(1, 6))
        table = random.choice([-1.0, 0.0, 1.0], p=[0.2, 0.55, 0.25], size=(seeds, 300)) + 0.0
        found = bootstrap([table], resamples=2_000)[0]
        p = p_value(found, table.sum(axis=0), seeds)
        apart += (p <= 0.05) != (not found.low <= 0.0 <= found.high)
    assert apart <= 10


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_its_definition(values):
    found = holm(values)
    order = sorted(range(len(values)), key=values.__getitem__)
    for rank, place in enumerate(order):
        stepped = max((len(values) - i) * values[order[i]] for i in range(rank + 1))
        assert found[place] == pytest.approx(min(1.0, stepped))


@pytest.mark.parity
def test_holm_is_that_of_statsmodels():
    multi = pytest.importorskip("statsmodels.stats.multitest")
    values = np.random.default_rng(4).random(30) ** 3
    assert holm(list(values)) == pytest.approx(multi.multipletests(values, method="holm")[1])


def test_holm_leaves_out_what_has_no_p():
    assert holm([0.02, math.nan, 0.03])[0] == 0.04
    assert math.isnan(holm([0.02, math.nan])[1])
    assert holm([]) == []


def test_holm_keeps_false_alarms_of_the_whole_table_rare():
    random = np.random.default_rng(5)
    alarms = sum(min(holm(list(random.random(6)))) <= 0.05 for _ in range(4000))
    assert alarms / 4000 == pytest.approx(0.05, abs=0.011)


def test_the_smallest_difference_is_seen_in_four_of_five_studies():
    """Studies with exactly that difference, tested at the first of four steps."""
    random = np.random.default_rng(6)
    smallest = smallest_seen(Estimate(value=0.0, stderr=0.05, df=1e9), comparisons=4)
    seen = 0
    for _ in range(2000):
        found = Estimate(value=random.normal(smallest, 0.05), stderr=0.05, df=1e9)
        seen += t_test(found) * 4 <= 0.05
    assert seen / 2000 == pytest.approx(0.8, abs=0.03)
    assert smallest > smallest_seen(Estimate(value=0.0, stderr=0.05, df=1e9))
    assert smallest_seen(Estimate(value=0.0, stderr=0.05, df=2)) > 1.5 * smallest
    assert math.isnan(smallest_seen(Estimate(value=0.0, stderr=0.0, df=3)))
