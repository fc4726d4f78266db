# SPDX-License-Identifier: Apache-2.0
"""Curves, costs and ranks: well-formed, inside their frame at both widths, labels apart, the front as defined."""

from __future__ import annotations

import itertools
import random
import re
from xml.etree import ElementTree

import pytest

from luthier.web.charts.cost import Spot, draw_cost, front
from luthier.web.charts.curves import Curve, draw_curves, mean_line, thinned
from luthier.web.charts.ranks import Place, draw_ranks
from luthier.web.charts.svg import Scale, linear_ticks, log_ticks, spread

WIDTHS = (340, 900)
LONG = "a-variant-with-a-very-long-name-<b>"


def _curves(count: int) -> list[Curve]:
    random.seed(0)
    return [
        Curve(
            name=f"{LONG}{n}", kind=f"g{n % 6}", dash=n % 4,
            runs=[[(s, 5.0 / s + random.random()) for s in range(1, 400)] for _ in range(3)],
        )
        for n in range(count)
    ]  # fmt: skip


def _spots(count: int) -> list[Spot]:
    random.seed(1)
    made = []
    for n in range(count):
        score = random.random()
        made.append(
            Spot(name=f"v{n}", kind=f"g{n % 6}", cost=10 ** random.uniform(0, 4), score=score, low=score - 0.05,
                 high=score + 0.05)
        )  # fmt: skip
    return made


def _places() -> list[Place]:
    ranked = [
        Place(name=f"{group}{r}", group=group, kind=kind, rank=r, value=r**0.3, low=r**0.3 - 0.1, high=r**0.3 + 0.1)
        for group, kind in (("LoRA", "g0"), ("rsLoRA", "g1"))
        for r in (4.0, 16.0, 256.0)
    ]
    return [*ranked, Place(name="full", group="full", kind="g2", rank=None, value=2.0, low=1.9, high=2.1)]


def _drawn(width: int) -> dict[str, str]:
    axes = {"x_text": "x", "y_text": "y", "labelled": "id"}
    return {
        "curves": draw_curves(_curves(20), width=width, **axes),
        "cost": draw_cost(_spots(12), width=width, level=("before", 0.02), **axes),
        "one": draw_cost(_spots(1), width=width, level=None, **axes),
        "ranks": draw_ranks(_places(), width=width, **axes),
        "log": draw_ranks(_places(), width=width, log=True, **axes),
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["curves", "cost", "one", "ranks", "log"])
def test_everything_is_inside_the_frame(kind, width):
    text = _drawn(width)[kind]
    assert not re.search(r"nan|inf\b", text, re.IGNORECASE)
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "id"
    _, _, wide, high = map(float, root.get("viewBox").split())
    assert wide == width
    for node in root.iter():
        for key, value in node.attrib.items():
            if key in ("x", "x1", "x2", "cx"):
                assert 0 <= float(value) <= wide, ElementTree.tostring(node)
            if key in ("y", "y1", "y2", "cy"):
                assert 0 <= float(value) <= high, ElementTree.tostring(node)


def test_names_at_the_ends_of_lines_do_not_cover_each_other():
    root = ElementTree.fromstring(_drawn(900)["curves"])
    rows = sorted(float(g.find("text").get("y")) for g in root.iter("g"))
    assert len(rows) == 20
    assert min(b - a for a, b in itertools.pairwise(rows)) >= 15.9


def test_spread_keeps_order_gap_and_edges():
    random.seed(2)
    for _ in range(200):
        wanted = [random.uniform(-20, 120) for _ in range(random.randint(1, 10))]
        found = spread(wanted, 10, 0, 100)
        order = sorted(range(len(wanted)), key=lambda n: wanted[n])
        placed = [found[n] for n in order]
        assert all(b - a >= 10 - 1e-6 for a, b in itertools.pairwise(placed))
        assert min(placed) >= -1e-6
        assert max(placed) <= 100 + 1e-6
    assert spread([10, 50], 10, 0, 100) == [10.0, 50.0], "nothing moves without need"


def test_the_front_is_what_none_beats():
    spots = _spots(60)
    kept = set(front(spots))
    for spot in spots:
        beaten = any(
            other.cost <= spot.cost
            and other.score >= spot.score
            and (other.cost, other.score) != (spot.cost, spot.score)
            for other in spots
        )
        assert (spot in kept) is not beaten


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.28, 0.78), (-3, 7), (0, 7e9), (0.001, 0.0013)])
def test_linear_ticks_are_round_and_enough(low, high):
    ticks = linear_ticks(low, high, 5)
    assert 3 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert all(re.fullmatch(r"-?(0|[125]|\d{1,2}0*|\d+)(\.\d+)?(e.\d+)?", f"{tick:g}") for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(0.02, 7), (1, 1e9), (3, 4), (180, 260)])
def test_log_ticks_are_inside(low, high):
    ticks = log_ticks(low, high, 5)
    assert 2 <= len(ticks) <= 8
    assert all(low * 0.99 <= tick <= high * 1.01 for tick in ticks)


def test_a_scale_keeps_to_its_axis():
    scale = Scale(low=1, high=100, start=0, end=10, log=True)
    assert [scale(v) for v in (0.0, 1, 10, 100, 1e9)] == pytest.approx([0, 0, 5, 10, 10])


def test_the_mean_line_is_the_mean():
    runs = [[(n, float(n)) for n in range(11)], [(n, n + 2.0) for n in range(11)]]
    assert mean_line(runs) == [(float(n), n + 1.0) for n in range(11)]


def test_thinning_keeps_mean_and_ends():
    points = [(float(n), random.random()) for n in range(1000)]
    few = thinned(points, 100)
    assert len(few) == 100
    assert (few[0], few[-1]) == (points[0], points[-1])
    inner = [y for _, y in points[1:-1]]
    assert sum(y for _, y in few[1:-1]) / 98 == pytest.approx(sum(inner) / len(inner), abs=0.01)


@pytest.mark.parametrize(("may_log", "labels"), [(True, {"0.02", "0.05", "0.1"}), (False, {"0.2", "0.4", "0.6"})])
def test_a_share_is_never_drawn_on_a_logarithmic_axis(may_log, labels):
    curve = Curve(name="a", kind="g0", dash=0, runs=[[(n, 0.02 * n) for n in range(1, 50)]])
    drawn = draw_curves([curve], width=900, x_text="x", y_text="y", labelled="id", may_log=may_log)
    assert labels <= {node.text for node in ElementTree.fromstring(drawn).iter("text")}
