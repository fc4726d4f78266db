# SPDX-License-Identifier: Apache-2.0
"""Families of comparisons, categories and groups of items, forgetting: on verdicts that are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from luthier.evaluate.items import Item
from luthier.evaluate.statistics import crossed
from luthier.study.categories import categories_json, forgetting
from luthier.study.comparisons import Difference, by_category, corrected, scores
from luthier.study.report import markdown
from luthier.study.table import captions

PAIRS = [("full", "lora-r16"), ("rslora-r16", "lora-r16"), ("lora-r64", "lora-r16")]


def test_a_table_is_one_family(made_up):
    result = made_up({"lora-r16": 0.3, "full": 0.32, "rslora-r16": 0.315, "lora-r64": 0.3})
    alone = [result.compared([pair])[0] for pair in PAIRS]
    together = result.compared(PAIRS)
    assert [d.p for d in together] == [d.p for d in alone] == [2 / 2**8, 2 / 2**6, 1.0]
    assert [d.p_holm for d in together] == [3 * 2 / 2**8, 2 * 2 / 2**6, 1.0]
    assert [d.verdict for d in alone] == ["better", "better", "no difference seen"]
    assert [d.verdict for d in together] == ["better", "no difference seen", "no difference seen"]
    assert together[0].smallest > alone[0].smallest  # the level is stricter
    assert together[0].estimate == alone[0].estimate


def test_what_cannot_be_compared_is_no_member(made_up):
    result = made_up({"full": None, "rslora-r16": 0.9})
    missing, found, _ = result.compared(PAIRS)
    assert missing.verdict == ""
    assert math.isnan(missing.p_holm)
    assert found.p_holm == 2 * found.p  # two tests, not three


def test_verdicts_follow_the_corrected_p():
    plain = Difference(first="a", second="b", estimate=crossed([[0.0, 1.0, 1.0, 1.0]]), p=0.04)
    assert [d.verdict for d in corrected([plain])] == ["better"]
    assert [d.verdict for d in corrected([plain, plain])] == ["no difference seen"] * 2
    one_item = replace(plain, estimate=crossed([[1.0]]), p=1.0)
    assert corrected([one_item])[0].verdict == "error unknown"


def test_categories_are_scored_on_their_own_items(made_up):
    result = made_up({"base": 0.25, "lora-r16": [0.3, 0.5], "full": 0.25}, seeds=[0, 1])
    tree = categories_json(result)["embedded"]
    assert list(tree) == ["code", "math"]
    cell = tree["math"]["lora-r16"]
    assert cell["items"] == 200
    assert cell["value"] == pytest.approx(0.4)
    assert cell["low"] < 0.4 < cell["high"]
    assert scores(result, "embedded", "math")["lora-r16"].value == pytest.approx(0.4)
    whole, part = scores(result, "embedded")["full"], scores(result, "embedded", "code")["full"]
    assert part.high - part.low > 1.3 * (whole.high - whole.low)  # half of the items
    assert made_up({}).categories("unknown") == {}


def test_categories_of_several_comparisons_are_one_family(made_up):
    result = made_up({"lora-r16": 0.3, "full": 0.33, "rslora-r16": 0.33, "lora-r64": 0.3})
    found = by_category(result, PAIRS, "embedded")
    assert list(found) == ["code", "math"]
    assert [d.first for d in found["math"]] == ["full", "rslora-r16", "lora-r64"]
    assert found["code"][0].p == 2 / 2**6
    assert found["code"][0].p_holm == 6 * 2 / 2**6


def lopsided(made_up, seeds=(0, 1, 2)):
    """A variant that gains in math what it loses in code."""
    result = made_up({"base": 0.5, "lora-r16": 0.5}, seeds=list(seeds), variants={"lora-r16": {}})
    runs = list(result.runs)
    for place, run in enumerate(runs):
        if run.variant != "base":
            right = runs[0].right["embedded"].copy()
            right[1:121:2] = 0.0  # code
            right[200:320:2] = 1.0  # math
            runs[place] = replace(run, right={"embedded": right})
    return replace(result, runs=tuple(runs))


def test_forgetting_is_seen_where_the_mean_hides_it(made_up):
    result = lopsided(made_up)
    assert result.score("lora-r16").value == result.score("base").value == 0.5
    found = forgetting(result)["lora-r16"]
    lost, gained = found["code"], found["math"]
    assert (lost.before.value, lost.after.value) == (0.5, pytest.approx(0.2))
    assert lost.difference.estimate.high < 0 < gained.difference.estimate.low
    assert (lost.difference.verdict, gained.difference.verdict) == ("worse", "better")
    text = markdown(result)
    assert "correction over 2 comparisons): lora-r16 in code." in text
    assert "| code | 0.50 | **-0.30 [" in text
    cell = result.to_json()["forgetting"]["lora-r16"]["code"]
    assert cell["delta"] == pytest.approx(-0.3)
    assert cell["before"] - 0.3 == pytest.approx(cell["after"])
    assert cell["verdict"] == "worse"


def test_where_nothing_was_lost_a_sentence_says_so(made_up):
    text = markdown(made_up({"base": 0.2, "lora-r16": 0.3}))
    assert "## Before and after training\n\nNothing was forgotten: no variant scored below" in text


def test_forgetting_needs_the_model_before_training(made_up):
    assert forgetting(made_up({})) == {}
    assert "Before and after" not in markdown(made_up({}))


def test_forgetting_counts_a_suite_without_categories_as_one(made_up):
    result = lopsided(made_up)
    runs = tuple(replace(run, right={**run.right, "other": run.right["embedded"][:50]}) for run in result.runs)
    both = replace(result, runs=runs, suites={"embedded": 400, "other": 50})
    assert list(forgetting(both)["lora-r16"]) == ["code", "math", "other"]
    again = replace(both, items={**result.items, "other": result.items["embedded"][:50]})
    assert list(forgetting(again)["lora-r16"]) == [
        "embedded/code", "embedded/math", "other/code", "other/math",
    ]  # fmt: skip


def grouped(result, size: int):
    items = [
        Item(category=item.category, group=f"text {place // size}")
        for place, item in enumerate(result.items["embedded"])
    ]
    return replace(result, items={"embedded": items})


def test_items_of_a_group_are_one_unit(made_up):
    apart = made_up({"lora-r16": 0.3, "full": 0.4})
    together = grouped(apart, 4)
    assert apart.groups("embedded") is None
    assert together.groups("embedded").max() == 99
    one, two = apart.compared(PAIRS[:1])[0], together.compared(PAIRS[:1])[0]
    assert one.estimate.value == two.estimate.value == pytest.approx(0.1)
    assert two.estimate.stderr == pytest.approx(2 * one.estimate.stderr, rel=0.02)  # 10 units differ, not 40 items
    assert (one.p, two.p) == (2 / 2**40, 2 / 2**10)
    assert any("100 units of 400 items" in line for line in captions(together))
    assert scores(together, "embedded", "math")["full"].value == pytest.approx(0.4)


def test_items_without_a_group_are_units_of_their_own(made_up):
    result = made_up({})
    items = list(result.items["embedded"])
    items[3] = items[7] = Item(group="0")
    numbers = replace(result, items={"embedded": items}).groups("embedded")
    assert len(set(numbers.tolist())) == 399
    assert numbers[3] == numbers[7]
    assert np.bincount(numbers).max() == 2


def test_captions_say_which_of_interval_and_p_decides(made_up):
    result = made_up({"base": 0.0, "lora-r16": 0.3, "lora-r64": 0.31, "rslora-r16": 0.5, "full": 0.2})
    row = result.row("lora-r64")
    assert row.delta.low > 0
    assert row.verdict == "no difference seen"
    assert any(line.startswith("lora-r64: the interval is for this comparison alone") for line in captions(result))
    assert not any("comparison alone" in line for line in captions(made_up({"full": 0.9})))


def test_captions_say_what_could_have_been_seen(made_up):
    alike = " ".join(captions(made_up({"lora-r16": 0.3, "full": 0.5}, variants={"lora-r16": {}, "full": {}})))
    assert "; a true difference of 0.0" in alike
    uneven = made_up({"lora-r16": 0.3, "full": [0.1, 0.5, 0.3], "rslora-r16": 0.32}, seeds=[0, 1, 2])
    said = " ".join(captions(uneven))
    least, most = uneven.row("rslora-r16").difference.smallest, uneven.row("full").difference.smallest
    assert f"a true difference of {least:.3f} (rslora-r16) to {most:.3f} (full) would be seen" in said
    assert uneven.to_json()["smallest"]["embedded"] == most
