# SPDX-License-Identifier: Apache-2.0
"""Student's t against scipy."""

from __future__ import annotations

import math

import pytest

from luthier.evaluate.student import t_quantile, t_tail

DEGREES = [1, 1.3, 2, 3.7, 4, 10, 99.5, 599, 3e4, 1e6, 1e9, math.inf]


@pytest.mark.parity
@pytest.mark.parametrize("df", DEGREES)
def test_tail_and_quantile_are_scipys(df):
    stats = pytest.importorskip("scipy.stats")
    for t in (0.0, 1e-3, 0.7, 1.96, 4.0, 9.0, 30.0):
        assert t_tail(t, df) == pytest.approx(stats.t.sf(t, df), rel=1e-7 if df < 1e7 else 1e-3, abs=1e-190)
        assert t_tail(-t, df) == pytest.approx(stats.t.sf(-t, df), rel=1e-7)
    for p in (0.02, 0.5001, 0.8, 0.975, 0.995, 0.99999):
        assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-6)


@pytest.mark.parametrize("df", [1.0, 2.5, 40.0, 1e8])
def test_quantile_undoes_tail(df):
    for p in (0.001, 0.3, 0.9, 0.9999):
        assert 1.0 - t_tail(t_quantile(p, df), df) == pytest.approx(p, abs=1e-9)


def test_one_degree_is_cauchy():
    assert t_tail(1.0, 1) == pytest.approx(0.25)
    assert t_quantile(0.975, 1) == pytest.approx(math.tan(math.pi * 0.475))


def test_edges():
    assert t_tail(math.inf, 3) == 0.0
    assert t_tail(-math.inf, 3) == 1.0
    assert math.isnan(t_tail(math.nan, 3))
    assert math.isnan(t_quantile(0.9, math.nan))
    for p in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            t_quantile(p, 3)
