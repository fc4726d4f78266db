# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals against scipy, against loops, and against what repeated studies show."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from luthier.evaluate.bootstrap import bootstrap
from luthier.evaluate.statistics import crossed, spread
from luthier.evaluate.student import t_quantile

STRETCH_39 = t_quantile(0.975, 39) / t_quantile(0.975, math.inf)


@pytest.mark.parity
@pytest.mark.parametrize("skewed", [False, True])
def test_one_seed_is_scipys_percentile_bootstrap_stretched(skewed):
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(3)
    values = random.exponential(size=40) if skewed else (random.random(40) < 0.4).astype(float)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="percentile", rng=random)
    found = bootstrap([values], resamples=40_000)[0]
    for ours, other in zip((found.low, found.high), theirs.confidence_interval, strict=True):
        expected = values.mean() + (other - values.mean()) * STRETCH_39
        assert ours == pytest.approx(expected, abs=0.012)  # steps of binary means are 0.025, drawn percentiles scatter


def test_items_are_drawn_as_a_loop_would_draw_them():
    random = np.random.default_rng(0)
    table = random.normal(size=(1, 12))
    groups = np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 6, 6])
    means = []
    for _ in range(4000):
        drawn = random.integers(7, size=7)
        kept = np.concatenate([table[0][groups == group] for group in drawn])
        means.append(kept.mean())
    found = bootstrap([table], groups)[0]
    stretch = t_quantile(0.975, 6) / t_quantile(0.975, math.inf)
    low, high = (table.mean() + (np.quantile(means, [0.025, 0.975]) - table.mean()) * stretch).tolist()
    assert (found.low, found.high) == (pytest.approx(low, abs=0.06), pytest.approx(high, abs=0.06))


def test_an_item_stays_whole_with_all_its_seeds():
    """Five equal seeds tell what one tells: drawing seeds' answers apart would shrink the interval by sqrt(5)."""
    random = np.random.default_rng(1)
    once = (random.random((1, 300)) < 0.5).astype(float)
    one, five = bootstrap([once, np.tile(once, (5, 1))])
    assert (one.low, one.high) == (pytest.approx(five.low), pytest.approx(five.high))


def test_groups_widen_the_interval():
    random = np.random.default_rng(2)
    dialogues = (random.random(50) < 0.5).astype(float)
    turns = np.repeat(dialogues, 4)  # four turns, all right or all wrong
    groups = np.repeat(np.arange(50), 4)
    apart, together = bootstrap([turns])[0], bootstrap([turns], groups)[0]
    alone = bootstrap([dialogues])[0]
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert together.high - together.low > 1.9 * (apart.high - apart.low)
    assert together.stderr == pytest.approx(alone.stderr)


def test_seeds_that_differ_widen_the_interval_by_the_t_of_so_few():
    items = np.tile(np.tile([1.0, 0.0], 500), (3, 1))
    apart = items + np.array([[0.1], [0.0], [-0.1]])
    found = bootstrap([apart])[0]
    seeds, of_items = 0.1 / math.sqrt(3), 0.5 / math.sqrt(999)
    assert found.stderr == pytest.approx(math.hypot(seeds, of_items))
    assert found.df == pytest.approx((seeds**2 + of_items**2) ** 2 / (seeds**4 / 2 + of_items**4 / 999))
    assert found.high - found.value == pytest.approx(t_quantile(0.975, found.df) * found.stderr, rel=0.03)


def test_the_same_every_time_and_for_every_table():
    random = np.random.default_rng(4)
    tables = [random.random((3, 30)) for _ in range(3)]
    both, alone = bootstrap(tables), [bootstrap([table])[0] for table in tables]
    assert [(e.low, e.high) for e in both] == [pytest.approx((e.low, e.high)) for e in alone]
    assert [(e.low, e.high) for e in both] == [(e.low, e.high) for e in bootstrap(tables)]
    other = bootstrap(tables, seed=1)
    assert other[0].low != both[0].low
    assert other[0].low == pytest.approx(both[0].low, abs=0.02)


def test_memory_is_bounded_and_chunks_join():
    """Twelve thousand items need more than one chunk a few rows long; the interval is that of the normal."""
    values = (np.random.default_rng(5).random(12_000) < 0.3).astype(float)
    found = bootstrap([values], resamples=2_000)[0]
    assert found.high - found.low == pytest.approx(2 * 1.96 * crossed(values).stderr, rel=0.1)


def test_nothing_to_resample_gives_the_binomial_bound():
    none, every = bootstrap([np.zeros(100), np.ones(100)], limits=(0.0, 1.0))
    bound = 1 - 0.05**0.01  # P(none of 100) = 0.05 at this share
    assert (1 - bound) ** 100 == pytest.approx(0.05)
    assert (none.low, none.high) == (0.0, pytest.approx(bound))
    assert (every.low, every.high) == (pytest.approx(1 - bound), 1.0)
    same = bootstrap([np.zeros((2, 100))], limits=(-1.0, 1.0))[0]
    assert (same.low, same.high) == (pytest.approx(-bound), pytest.approx(bound))


def test_intervals_stay_within_what_a_score_can_be():
    right = np.zeros((2, 40))
    right[0, 0] = 1.0
    found = bootstrap([right], limits=(0.0, 1.0))[0]
    assert found.low == 0.0
    assert found.high > found.value


def test_one_item_has_no_interval():
    found = bootstrap([[1.0]])[0]
    assert math.isnan(found.low)
    assert math.isnan(found.stderr)
    assert bootstrap([]) == []


def test_it_is_quick():
    """600 items, 5 seeds, 10 variants with their differences: 0.2 s here, so that 5 s are a mistake."""
    random = np.random.default_rng(6)
    tables = [(random.random((5, 600)) < 0.5).astype(float) for _ in range(19)]
    begun = time.process_time()
    bootstrap(tables, seed=123)
    assert time.process_time() - begun < 5.0


def draw(random: np.random.Generator, seeds: int, items: int, of_seeds: float) -> np.ndarray:
    """Differences of two models that are equal on average: right where ability, seed and luck say so."""
    hard = random.normal(0, 1.2, items)
    shape = (seeds, items)
    first, second = (
        hard + random.normal(0, 0.5, items) + random.normal(0, of_seeds, (seeds, 1)) + random.normal(0, 0.7, shape)
        for _ in range(2)
    )
    return (first > 0).astype(float) - (second > 0)


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "least", "most"),
    [
        (1, 0.0, 0.92, 0.98),
        (3, 0.0, 0.95, 1.0),  # var_e counts twice: too wide where seeds do nothing
        (3, 0.15, 0.90, 0.98),
        (5, 0.15, 0.92, 0.98),
        (5, 0.4, 0.92, 0.98),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(seeds, of_seeds, least, most):
    """600 studies of 200 items: the standard error of a share of 0.95 is 0.009. docs/statistics.md has more."""
    random = np.random.default_rng(7)
    held = 0
    for _ in range(600):
        found = bootstrap([draw(random, seeds, 200, of_seeds)], resamples=1_000)[0]
        held += found.low <= 0.0 <= found.high
    assert least <= held / 600 <= most


def test_leaving_the_seeds_out_would_promise_too_much():
    """With seeds that differ, an interval over items alone holds the truth far too rarely: why there are two parts."""
    random = np.random.default_rng(8)
    held = {"both": 0, "items": 0}
    for _ in range(300):
        table = draw(random, 5, 200, 0.3)
        parts, found = spread(table), crossed(table)
        held["both"] += abs(found.value) <= t_quantile(0.975, found.df) * found.stderr
        held["items"] += abs(found.value) <= 1.96 * math.sqrt(parts.items)
    assert held["both"] / 300 > 0.91
    assert held["items"] / 300 < 0.7
