# SPDX-License-Identifier: Apache-2.0
"""Cohen's kappa: statsmodels' numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luthier.metrics.kappa import kappa


@pytest.mark.parametrize("seed", range(5))
def test_as_statsmodels_gives_it(seed):
    rater = pytest.importorskip("statsmodels.stats.inter_rater")
    random = np.random.default_rng(seed)
    first = random.integers(1, 6, 60)
    second = np.clip(first + random.integers(-1, 2, 60), 1, 5)
    counts = np.zeros((5, 5))
    np.add.at(counts, (first - 1, second - 1), 1)
    plain = rater.cohens_kappa(counts, return_results=False)
    near = rater.cohens_kappa(counts, weights=np.arange(1, 6), wt="quadratic", return_results=False)
    assert kappa(first.tolist(), second.tolist()) == pytest.approx(plain, rel=1e-12)
    assert kappa(first.tolist(), second.tolist(), weights="quadratic") == pytest.approx(near, rel=1e-12)


def test_distances_are_those_of_the_values():
    assert kappa([1, 10, 1, 10], [1, 10, 10, 1], weights="quadratic") == 0.0
    assert kappa([1, 2, 9], [1, 2, 10], weights="quadratic") > kappa([1, 2, 9], [2, 1, 9], weights="quadratic") > 0.9


def test_where_there_is_none():
    assert math.isnan(kappa([], []))
    assert math.isnan(kappa(["a", "a"], ["a", "a"]))


def test_faults():
    with pytest.raises(ValueError, match="2 and 1 ratings"):
        kappa([1, 2], [1])
    with pytest.raises(ValueError, match="weights 'linear'"):
        kappa([1], [1], weights="linear")
