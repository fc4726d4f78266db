# SPDX-License-Identifier: Apache-2.0
"""Correlations: scipy's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luthier.metrics.pearson import pearson
from luthier.metrics.spearman import ranks, spearman


@pytest.mark.parametrize("seed", range(5))
def test_as_scipy_gives_them(seed):
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(seed)
    x, y = random.normal(size=40).round(1), random.integers(0, 5, 40)  # ties in both
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0], rel=1e-12)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0], rel=1e-12)


def test_by_hand():
    assert ranks([3.0, 1.0, 3.0, 3.0, 0.0]).tolist() == [4.0, 2.0, 4.0, 4.0, 1.0]
    assert spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1.0)
    assert pearson([1, 2, 3], [-1, -2, -3]) == pytest.approx(-1.0)


def test_where_there_is_none():
    assert all(math.isnan(metric([1.0], [2.0])) for metric in (pearson, spearman))
    assert all(math.isnan(metric([1.0, 1.0], [2.0, 3.0])) for metric in (pearson, spearman))
    with pytest.raises(ValueError, match="shape"):
        pearson([1, 2], [1])
