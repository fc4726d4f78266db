# SPDX-License-Identifier: Apache-2.0
"""Learning rates: the table's points are hit, sizes between them lie between, and our own points are our studies'."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tests.advice import facts

from luthier.advise import advise
from luthier.advise.rates import ANSWERS, JUDGED_FULL, JUDGED_LORA, SMALL, between, rounded
from luthier.advise.sources import SOURCES
from luthier.core import registry

ROOT = Path(__file__).parents[3]
RATE = "optim.learning_rate"
TABLES = {
    **ANSWERS,
    **{f"{k} full": v for k, v in JUDGED_FULL.items()},
    **{f"{k} lora": v for k, v in JUDGED_LORA.items()},
}


@pytest.mark.parametrize("name", TABLES)
def test_points(name):
    points = TABLES[name]
    assert list(points) == sorted(points), "by size"
    for point in points:
        assert point.source in SOURCES
        assert between(points, point.parameters)[0] == pytest.approx(point.rate)
    for low, high in pairwise(points):
        rate, used = between(points, (low.parameters * high.parameters) ** 0.5)
        assert used == (low, high)
        assert rate == pytest.approx((low.rate * high.rate) ** 0.5)
    assert between(points, 1)[0] == points[0].rate
    assert between(points, 1e15)[0] == points[-1].rate


def test_our_points_stand_in_the_document():
    """The last column of docs/methods.md's table is the rate that was chosen for each method."""
    table = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = [
        line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ") and "–" not in line[:9]
    ]
    found = {row[0]: row[-1] for row in rows if len(row) == 9}
    names = {"full": "full", "lora": "lora-r16", "freeze": "freeze-last2"}
    for method, points in ANSWERS.items():
        ours = [point for point in points if point.parameters == SMALL]
        assert [f"{point.rate:g}" for point in ours] == [found[names.get(method, method)].strip()], method


def test_the_document_names_every_rate():
    told = (ROOT / "docs" / "advise.md").read_text(encoding="utf-8").split("## Learning rates")[1]
    rates = {f"{point.rate:g}" for points in TABLES.values() for point in points}
    assert {rate for rate in rates if rate not in told} == set()


@pytest.mark.parametrize(
    ("parameters", "method", "objective", "rate"),
    [
        (SMALL, "lora", "sft", 3e-3),
        (8e9, "lora", "sft", 2e-4),
        (70e9, "lora", "sft", 1e-4),
        (7e9, "full", "sft", 2e-5),
        (7e9, "full", "dpo", 5e-7),
        (7e9, "galore", "sft", 2e-5),
        (7e9, "apollo", "dpo", 5e-7),
        (7e9, "lora", "dpo", 5e-6),
        (SMALL, "lora", "dpo", 1.5e-4),
        (7e9, "full", "orpo", 8e-6),
        (6e9, "full", "reward", 1e-5),  # 9e-6, rounded
        (6e9, "lora", "reward", 1e-4),
        (11e9, "prompt", "sft", 0.3),
    ],
)
def test_known_rates(parameters, method, objective, rate):
    judged = objective != "sft"
    found = advise(
        facts(model={"parameters": int(parameters)}, data={"judged": judged}, objective=objective, method=method)
    )
    assert found.values[RATE] == pytest.approx(rate)


def test_far_from_every_point_is_not_sure():
    def sure(parameters):
        found = advise(facts(model={"parameters": parameters}, method="full"))
        return next(row.sure for row in found.rows if row.key == RATE)

    assert sure(7_000_000_000) == "fair"
    assert sure(100_000_000) == "low"


@pytest.mark.parametrize("objective", registry.entries("objectives"))
@pytest.mark.parametrize("method", registry.entries("methods"))
def test_every_method_with_every_objective_has_a_rate(method, objective):
    found = advise(facts(objective=objective, method=method, data={"judged": objective != "sft"}))
    row = next(row for row in found.rows if row.key == RATE)
    assert 0 < row.value < 1
    assert row.value == rounded(row.value)
