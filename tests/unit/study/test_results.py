# SPDX-License-Identifier: Apache-2.0
"""Rows, differences, tables and files of a study whose verdicts are known."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from luthier.evaluate.statistics import crossed
from luthier.study.report import costs, markdown, table, write_report
from luthier.study.table import captions, cells, cost_cells, cost_headers, headers, machine_line

SHARES = {"base": 0.0, "lora-r16": 0.3, "lora-r64": 0.31, "rslora-r16": 0.5, "rslora-r64": None, "full": 0.2}


def test_rows_are_means_with_paired_differences(made_up):
    result = made_up(SHARES)
    rows = {row.variant: row for row in result.rows()}
    assert list(rows) == list(SHARES)
    assert rows["lora-r16"].delta is None
    assert rows["rslora-r16"].delta.value == pytest.approx(0.2)
    assert [rows[name].verdict for name in ("lora-r64", "rslora-r16", "full", "base")] == [
        "no difference seen",  # 4 items more of 400, none less: chance gives that, or the reverse, 1 time in 8
        "better",
        "worse",
        "worse",
    ]
    assert rows["lora-r64"].difference.p == 2 / 2**4
    assert (rows["rslora-r64"].runs, rows["rslora-r64"].failed) == (0, 1)
    assert math.isnan(rows["rslora-r64"].score.value)


def test_no_difference_is_said_to_be_unseen(made_up):
    result = made_up({"lora-r16": 0.3, "lora-r64": 0.3025})
    assert result.row("lora-r64").verdict == "no difference seen"
    assert "no difference seen" in table(result)


def test_seeds_are_paired_and_a_failed_one_is_left_out(made_up):
    result = made_up({"lora-r16": [0.3, 0.4, 0.5], "full": [0.5, None, 0.6], "base": 0.1}, seeds=[0, 1, 2])
    row = result.row("full")
    assert (row.runs, row.failed) == (2, 1)
    assert row.delta.value == pytest.approx((0.2 + 0.1) / 2)  # over the seeds that both finished
    one = np.stack([result.verdicts("full")[seed] - result.verdicts("lora-r16")[seed] for seed in (0, 2)])
    assert row.delta == crossed(one)
    assert result.difference("full", "base").value == pytest.approx(0.45)
    assert result.difference("base", "full").value == pytest.approx(-0.45)
    assert result.row("lora-r16").score.value == pytest.approx(0.4)


def test_the_table_shows_everything(made_up):
    result = made_up(SHARES)
    names = headers(result)
    assert names == ["variant", "runs", "score", "Δ to lora-r16", "p", "verdict"]
    lines = {row.variant: cells(result, row) for row in result.rows()}
    assert all(len(line) == len(names) for line in lines.values())
    assert lines["lora-r16"][2:] == ["0.300 [0.255, 0.345]", "baseline", "–", "–"]
    assert lines["rslora-r64"][1:] == ["0 (1 failed)", "failed", "–", "–", "–"]
    assert lines["full"][4:] == ["<0.001", "worse (1 seed)"]
    assert lines["lora-r64"][4:] == ["0.125", "no difference seen"]


def test_costs_have_a_table_of_their_own(made_up):
    result = made_up(SHARES)
    assert cost_headers(result)[-3:] == ["state MiB", "peak MiB", "s/point"]
    lines = {row.variant: cost_cells(result, row) for row in result.rows()}
    assert all(len(line) == len(cost_headers(result)) for line in lines.values())
    assert lines["base"][1:] == ["–", "0", "–", "–", "–", "–", "–"]
    assert lines["full"][-3:] == ["100.0", "300", "0.50"]  # 10 s for 20 points more than the model before training
    assert "| full | 0.800 | 1,000 | 10.0 |" in costs(result)
    assert "| base |" not in costs(result)  # it was not trained
    for run in result.runs:
        run.summary.update({} if run.variant == "base" else {"flops": 3.21e12})
    assert "FLOPs" in cost_headers(result)
    assert cost_cells(result, result.row("full"))[5] == "3.2 T"
    assert "s/point" not in cost_headers(made_up({}))  # without the model before training nobody knows


def test_captions_are_honest(made_up):
    said = " ".join(captions(made_up(SHARES)))
    assert "400 items" in said
    assert "One seed (0): every interval and p is over the items alone" in said
    assert "p ≤ 0.05 after Holm's correction over the 4 comparisons of the table" in said
    assert "not a proof that there is none" in said
    assert "base: no reply right, so nothing can be resampled; the interval is the binomial bound" in said
    assert "Controlled: all variants of a seed saw the same examples" in said
    several = " ".join(captions(made_up({}, seeds=[0, 1])))
    assert "2 seeds (0, 1): every interval and p allows for other items and other seeds; from two seeds" in several
    assert "binomial bound" not in several


def test_control_is_checked_by_tokens_too(made_up):
    result = made_up({})
    result.runs[0].summary["tokens"] = 1
    assert "different numbers of tokens" in result.controlled()
    assert made_up(dict.fromkeys(SHARES, None)).controlled() == "Not controlled: no run has finished."
    other = made_up({}, variants={"a": {}, "b": {"data.max_length": 64}})
    assert "Not controlled: variants also differ in examples (data.max_length)" in other.controlled()


def test_the_report_has_all_parts(made_up):
    text = markdown(made_up(SHARES), ["So it is."])
    for part in ("# Made up", "So it is.", "<!-- picture -->", "## What differs", "`method.r`", "## By category"):
        assert part in text
    assert "| math | 200 | 0.00 [0.00, 0.01] | 0.30 [0.23, 0.37] |" in text
    assert "## Before and after training" not in text  # it could do nothing before: there is nothing to forget
    assert "## Failed runs\n\n- rslora-r64, seed 0: loss nan | at step 3" in text
    assert "Abacus, 2 threads; float32; seed 0; items: 400 of embedded" in text
    assert "`method.lora_alpha` = 16.0" in text  # a key of one method alone is no difference between variants


def test_files_agree(made_up):
    result = made_up(SHARES)
    write_report(result)
    runs = json.loads((result.folder / "results.json").read_text("utf-8"))
    assert [(run["variant"], run["seed"], run["score"]) for run in runs][:2] == [
        ("base", None, 0.0),
        ("lora-r16", 0, 0.3),
    ]
    assert runs[4]["error"] == "loss nan | at step 3"
    with (result.folder / "results.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["score"] for line in lines] == ["0.0", "0.3", "0.31", "0.5", "", "0.2"]
    assert lines[0]["seed"] == ""
    with (result.folder / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    whole = json.loads((result.folder / "study.json").read_text("utf-8"))
    assert [row["variant"] for row in rows] == list(SHARES)
    assert [row["suite"] for row in rows] == ["embedded"] * 6
    assert {key: float(rows[3][key]) for key in ("score_low", "delta_high", "p_holm")} == {
        key: whole["rows"]["embedded"][3][key] for key in ("score_low", "delta_high", "p_holm")
    }
    assert whole["runs"] == runs
    assert not list(result.folder.glob("*.writing"))


def test_json_has_no_nan(made_up):
    tree = made_up(SHARES).to_json()
    again = json.loads(json.dumps(tree, allow_nan=False))
    assert again["baseline"] == "lora-r16"
    assert [row["verdict"] for row in again["rows"]["embedded"]][:2] == ["worse", None]
    keys = "title folder suites seeds baseline controlled differing verdict rows categories forgetting claims smallest"
    assert set(keys.split()) | {"notes", "runs", "picture"} == set(again)
    row = again["rows"]["embedded"][3]
    assert row["score_low"] < row["score"] == 0.5 < row["score_high"]
    assert row["delta_low"] < row["delta"] < row["delta_high"]
    assert row["p"] == pytest.approx(2 / 2**80)
    assert row["p_holm"] == pytest.approx(3 * row["p"])  # base is further out: this is the second of four
    assert row["cost_per_point"] == pytest.approx(10 / 50)
    assert row["flops"] is None  # of a run that did not count them: null, not left out
    assert again["rows"]["embedded"][4]["score"] is None  # failed
    assert again["verdict"][0]["text"].startswith("Against lora-r16: better: rslora-r16 (+0.200 [")
    assert again["claims"] == []
    trained = [row["smallest"] for row in again["rows"]["embedded"] if row["variant"] != "base" and row["smallest"]]
    assert again["smallest"]["embedded"] == max(trained)


def test_a_machine_that_is_unknown_is_no_fault(made_up):
    assert "unknown machine" in machine_line(made_up(dict.fromkeys(SHARES, None)))


def test_the_picture_groups_methods_over_ranks(made_up):
    shown = made_up(SHARES).to_json()["picture"]
    assert shown["x_label"] == "rank r"
    assert shown["places"] == ["base", "16", "64", "full"]
    assert shown["title"] == "Made up, at the same alpha (16) and learning rate (0.001)"
    assert "400 items, one seed" in shown["subtitle"]
    spots = {point["variant"]: (point["group"], point["x"], point["score"]) for point in shown["points"]}
    assert spots["rslora-r16"] == ("rsLoRA", "16", 0.5)
    assert spots["full"] == ("full", "full", 0.2)
    assert spots["base"] == ("before training", "base", 0.0)
    assert spots["rslora-r64"][2] is None


def test_variants_at_one_spot_get_a_line_each(made_up):
    shown = made_up({}, variants={"a": {}, "b": {"optim.learning_rate": 0.1}}).to_json()["picture"]
    assert shown["x_label"] == ""
    assert shown["title"] == "Made up, at the same alpha (16) but with another learning rate for each variant"


def test_verdicts_of_one_seed_are_marked(made_up):
    one, three = made_up(SHARES), made_up({"full": 0.9}, seeds=[0, 1, 2])
    assert "| better (1 seed) |" in table(one)
    assert "| worse |" in table(one)  # the model before training has no seed
    assert "(1 seed)" not in table(three)
