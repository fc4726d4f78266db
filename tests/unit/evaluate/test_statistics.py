# SPDX-License-Identifier: Apache-2.0
"""Standard errors against their formulas written out, and against simulation."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.evaluate.statistics import Estimate, crossed, mean_error, paired_difference, spread

values = st.lists(st.floats(-100, 100), min_size=2, max_size=40)


@given(values)
def test_mean_error_is_the_sample_deviation_over_root_n(xs):
    assert mean_error(xs) == pytest.approx(statistics.stdev(xs) / math.sqrt(len(xs)), abs=1e-9)


@pytest.mark.parametrize("xs", [[], [3.0]])
def test_one_value_has_no_error(xs):
    assert math.isnan(mean_error(xs))


@given(st.lists(st.booleans(), min_size=2, max_size=200))
def test_for_a_share_it_is_the_binomial_error(right):
    n, p = len(right), sum(right) / len(right)
    assert mean_error(right) == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)), abs=1e-12)


def test_one_seed_is_over_items_alone():
    right = [1, 0, 1, 1, 0, 0, 1, 0]
    assert crossed([right]) == crossed(right) == Estimate(value=0.5, stderr=mean_error(right))


def naive_crossed(table: list[list[float]]) -> tuple[float, float]:
    """Variance over items plus variance over seeds, by loops; Satterthwaite's degrees of freedom."""
    rows, columns = len(table), len(table[0])
    mean = sum(map(sum, table)) / (rows * columns)
    by_row = [sum(row) / columns for row in table]
    by_column = [sum(row[j] for row in table) / rows for j in range(columns)]
    of_rows = sum((m - mean) ** 2 for m in by_row) / (rows - 1) / rows
    of_columns = sum((m - mean) ** 2 for m in by_column) / (columns - 1) / columns
    df = (of_rows + of_columns) ** 2 / (of_rows**2 / (rows - 1) + of_columns**2 / (columns - 1))
    return math.sqrt(of_rows + of_columns), df


@given(st.integers(2, 5), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_crossed_is_the_naive_form(seeds, items, seed):
    table = np.random.default_rng(seed).normal(size=(seeds, items))
    found = crossed(table)
    assert found.value == pytest.approx(table.mean())
    stderr, df = naive_crossed(table.tolist())
    assert found.stderr == pytest.approx(stderr)
    assert found.df == pytest.approx(df)


@given(st.integers(1, 3), st.lists(st.integers(0, 4), min_size=6, max_size=12), st.integers(0, 2**32 - 1))
def test_groups_are_summed_before_they_are_squared(seeds, names, seed):
    groups = np.unique(names, return_inverse=True)[1]
    table = np.random.default_rng(seed).normal(size=(seeds, len(names)))
    around = table.mean(axis=0) - table.mean()
    G, N = groups.max() + 1, len(names)
    expected = sum(sum(around[i] for i in range(N) if groups[i] == g) ** 2 for g in range(G)) * G / max(G - 1, 1) / N**2
    assert spread(table, groups).items == pytest.approx(expected if G > 1 else 0.0, abs=1e-15)
    assert spread(table, np.arange(N)).items == pytest.approx(spread(table).items)
    assert spread(table, groups).G == G


def test_the_error_of_one_item_is_over_its_seeds():
    assert crossed([[1.0], [0.0], [1.0]]).stderr == pytest.approx(mean_error([1.0, 0.0, 1.0]))
    assert math.isnan(crossed([[1.0]]).stderr)


def test_crossed_error_is_the_spread_of_repeated_studies():
    """Draw seeds, items and noise anew 3000 times: the means scatter as the formula says, var_e counted twice."""
    random = np.random.default_rng(1)
    means, variances = [], []
    for _ in range(3000):
        seeds, items = random.normal(0, 0.5, (6, 1)), random.normal(0, 1.0, (1, 30))
        found = crossed(seeds + items + random.normal(0, 0.7, (6, 30)))
        means.append(found.value)
        variances.append(found.stderr**2)
    assert np.mean(variances) == pytest.approx(np.var(means) + 0.49 / 180, rel=0.1)
    assert np.var(means) == pytest.approx(0.25 / 6 + 1 / 30 + 0.49 / 180, rel=0.1)


def test_seeds_that_differ_widen_the_error():
    alike = np.tile([1.0, 0.0, 1.0, 0.0, 1.0, 1.0], (3, 1))
    apart = np.stack([np.ones(6), alike[0], np.zeros(6)])
    assert crossed(apart).stderr > crossed(alike).stderr


def test_pairing_takes_out_what_both_share():
    random = np.random.default_rng(0)
    hard = random.random(500) < 0.5
    first = (hard & (random.random(500) < 0.9)).astype(float)
    second = (hard & (random.random(500) < 0.9)).astype(float)
    found = paired_difference(first, second)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.stderr == pytest.approx(statistics.stdev((first - second).tolist()) / math.sqrt(500))
    assert found.stderr < 0.75 * math.hypot(mean_error(first), mean_error(second))


def test_a_model_without_seed_stands_against_every_seed():
    one, three = [0.0, 0.0, 1.0], [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    assert paired_difference(three, one) == crossed(np.array(three) - np.array(one))


@pytest.mark.parametrize(("first", "second"), [([1, 0], [1, 0, 1]), ([[1, 0]] * 2, [[1, 0]] * 3)])
def test_what_is_not_paired_is_refused(first, second):
    with pytest.raises(ValueError, match="not paired"):
        paired_difference(first, second)
