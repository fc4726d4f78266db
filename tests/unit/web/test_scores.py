# SPDX-License-Identifier: Apache-2.0
"""Pictures: well-formed, readable without colours or eyes, inside their frame, and in the report."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from luthier.web.charts.scores import Chart, Point, draw
from luthier.web.picture import add_picture, chart_of

SVG = "{http://www.w3.org/2000/svg}"


def point(name: str, group: str, x: str, value: float, stderr: float = 0.02) -> Point:
    return Point(name=name, group=group, x=x, value=value, stderr=stderr)


POINTS = [
    point("base", "before training", "base", 0.0, 0.0),
    point("lora-r16", "LoRA", "16", 0.35),
    point("lora-r64", "LoRA", "64", 0.36),
    point("rs & <r16>", "rsLoRA", "16", 0.55, math.nan),
    point("full", "full", "full", 0.99),
]


def chart(**changes) -> Chart:
    given = {"title": "Score <by> rank & method", "subtitle": "600 items", "x_label": "rank r"}
    return Chart(**{**given, "places": ["base", "16", "64", "full"], "points": POINTS, **changes})


@pytest.mark.parametrize("x_label", ["rank r", ""])
def test_it_is_xml_with_words_for_those_who_hear_it(x_label):
    root = ElementTree.fromstring(draw(chart(x_label=x_label)))
    assert root.get("role") == "img"
    labelled = root.get("aria-labelledby").split()
    texts = {child.get("id"): child.text for child in root if child.get("id")}
    assert texts[labelled[0]] == "Score <by> rank & method"
    assert "rs & <r16> 0.550; full 0.990 ± 0.020." in texts["lt-desc"]
    assert len(root.findall(f".//{SVG}g/{SVG}title")) == len(POINTS)


@pytest.mark.parametrize("x_label", ["rank r", ""])
def test_everything_is_inside_the_frame(x_label):
    root = ElementTree.fromstring(draw(chart(x_label=x_label)))
    _, _, width, height = map(float, root.get("viewBox").split())
    for node in root.iter():
        for key, value in node.attrib.items():
            if key in ("x", "x1", "x2", "cx"):
                assert 0 <= float(value) <= width, ElementTree.tostring(node)
            if key in ("y", "y1", "y2", "cy"):
                assert 0 <= float(value) <= height, ElementTree.tostring(node)


def test_groups_differ_in_shape_and_colour_and_keep_theirs():
    text = draw(chart())
    assert len(set(re.findall(r'class="mark (\w+)"', text))) == 4
    alone = draw(chart(points=[p for p in POINTS if p.group != "before training"], places=["16", "64", "full"]))
    kinds = [re.search(rf"<title>{name}:.*?mark (\w+)", page).group(1) for page in (text, alone) for name in ("full",)]
    assert kinds[0] == kinds[1]


def test_light_and_dark():
    text = draw(chart())
    assert "@media (prefers-color-scheme:dark)" in text
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_groups_at_one_place_stand_side_by_side():
    root = ElementTree.fromstring(draw(chart()))
    marks = {g.find(f"{SVG}title").text.split(":")[0]: g for g in root.iter(f"{SVG}g")}
    assert marks["lora-r16"].find(f"{SVG}circle").get("cx") != "0"
    x = float(marks["lora-r16"].find(f"{SVG}circle").get("cx"))
    corner = float(marks["rs & <r16>"].find(f"{SVG}polygon").get("points").split(",")[0])
    assert corner - x > 20


def test_an_unknown_error_draws_no_bar():
    one = chart(points=[POINTS[3]], places=["16"])
    assert 'class="bar' not in draw(one)
    assert "NaN" not in draw(one)
    assert "nan" not in draw(one)


def test_bars_are_intervals_where_they_are_known():
    known = Point(name="a", group="LoRA", x="4", value=0.5, stderr=0.02, low=0.3, high=0.9)
    svg = draw(chart(points=[known, point("b", "LoRA", "16", 0.5)], places=["4", "16"]))
    assert "a 0.500, between 0.300 and 0.900; b 0.500 ± 0.020" in svg
    bars = re.findall(r'class="bar[^>]*y1="([\d.]+)"[^>]*y2="([\d.]+)"', svg)
    interval, errors = (length for low, high in bars if (length := abs(float(low) - float(high))))
    assert interval / errors == pytest.approx(0.6 / 0.08, rel=0.01)


def test_long_titles_break():
    text = draw(chart(title="word " * 40))
    assert text.count('class="title"') > 2


RESULT = {
    "title": "T",
    "subtitle": "s",
    "x_label": "rank r",
    "places": ["base", "4", "16"],
    "points": [
        {"variant": "a", "group": "LoRA", "x": "4", "score": 0.5, "stderr": None},
        {"variant": "b", "group": "LoRA", "x": "16", "score": None, "stderr": None},
    ],
}


def test_failed_variants_are_left_out_of_the_picture():
    made = chart_of(RESULT)
    assert [p.name for p in made.points] == ["a"]
    assert list(made.places) == ["4"]


def test_the_picture_goes_into_the_report(tmp_path):
    (tmp_path / "report.md").write_text("# T\n\n<!-- picture -->\n", encoding="utf-8")
    path = add_picture({"folder": str(tmp_path), "picture": RESULT})
    assert path == tmp_path / "picture.svg"
    assert (tmp_path / "report.md").read_text("utf-8") == "# T\n\n![T](picture.svg)\n"
    ElementTree.parse(path)
    assert add_picture({"folder": str(tmp_path), "picture": {**RESULT, "points": []}}) is None
