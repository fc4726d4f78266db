# SPDX-License-Identifier: Apache-2.0
"""Standard errors against their formulas written out, and against simulation."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.evaluate.statistics import Estimate, crossed, mean_error, paired_difference

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


def naive_crossed(table: list[list[float]]) -> float:
    """Searle, Casella and McCulloch: mean squares of the two-way table by loops; negative components are zero."""
    rows, columns = len(table), len(table[0])
    mean = sum(map(sum, table)) / (rows * columns)
    by_row = [sum(row) / columns for row in table]
    by_column = [sum(row[j] for row in table) / rows for j in range(columns)]
    ms_row = columns * sum((m - mean) ** 2 for m in by_row) / (rows - 1)
    ms_column = rows * sum((m - mean) ** 2 for m in by_column) / (columns - 1)
    rest = [(table[i][j] - by_row[i] - by_column[j] + mean) ** 2 for i in range(rows) for j in range(columns)]
    ms_rest = sum(rest) / ((rows - 1) * (columns - 1))
    var_row, var_column = max(0.0, (ms_row - ms_rest) / columns), max(0.0, (ms_column - ms_rest) / rows)
    return math.sqrt(var_row / rows + var_column / columns + ms_rest / (rows * columns))


@given(st.integers(2, 5), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_crossed_is_the_naive_form(seeds, items, seed):
    table = np.random.default_rng(seed).normal(size=(seeds, items))
    found = crossed(table)
    assert found.value == pytest.approx(table.mean())
    assert found.stderr == pytest.approx(naive_crossed(table.tolist()))


def test_crossed_error_is_the_spread_of_repeated_studies():
    """Draw seeds, items and noise anew 3000 times: the means scatter as the formula says."""
    random = np.random.default_rng(1)
    means, variances = [], []
    for _ in range(3000):
        seeds, items = random.normal(0, 0.5, (6, 1)), random.normal(0, 1.0, (1, 30))
        found = crossed(seeds + items + random.normal(0, 0.7, (6, 30)))
        means.append(found.value)
        variances.append(found.stderr**2)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.1)
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


@pytest.mark.parametrize(
    ("value", "stderr", "clear"),
    [(0.2, 0.1, True), (0.19, 0.1, False), (-0.3, 0.1, True), (0.0, 0.0, False), (0.1, math.nan, False)],
)
def test_clear_means_two_standard_errors(value, stderr, clear):
    assert Estimate(value=value, stderr=stderr).clear is clear
