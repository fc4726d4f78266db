# SPDX-License-Identifier: Apache-2.0
"""Kinds of suites by their rows and what was said: numbers, choices, written texts; and real data sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import UserError
from luthier.evaluate.items import Said
from luthier.evaluate.kinds import exact_match, generation, gsm8k, multiple_choice
from luthier.evaluate.suite import load_suite
from luthier.metrics.bleu import bleu

ROOT = Path(__file__).parents[3]
DATA = next((p / "shared" / "data" for p in ROOT.parents if (p / "shared" / "data").is_dir()), Path("none"))


def written(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("reply", "strict", "flexible"),
    [
        ("9 * 2 = 18.\n#### 18", "18", "18"),
        ("#### $1,234.50. Next", "1234.5", "1234.5"),
        ("#### 18\n#### 20", "18", "20"),
        ("It costs $1,200.", None, "1200"),
        ("From 5 to -3.", None, "-3"),
        ("So .5 of it", None, "0.5"),
        ("The answer is 18.0 dollars", None, "18"),
        ("#### none", None, None),
        ("1.2.3", None, None),
        ("", None, None),
    ],
)
def test_numbers_of_replies(reply, strict, flexible):
    assert (gsm8k.strict(reply), gsm8k.flexible(reply)) == (strict, flexible)


def test_both_ways_of_finding_a_number_are_told(tmp_path):
    file = written(tmp_path / "x.jsonl", [{"question": "?", "answer": f"so\n#### {n}"} for n in ("1,000", "-2", "3")])
    suite = load_suite({"gsm8k": file, "metric": "flexible_extract"})
    assert [item.answer for item in suite.items] == ["1000", "-2", "3"]
    said = [{"strict": None, "flexible": "1000"}, {"strict": "-2", "flexible": "-2"}, {"strict": "3", "flexible": "4"}]
    found = gsm8k.judge(suite.keys, suite.items, Said(rows=said))
    assert (found.metrics, found.value) == ({"strict_match": 2 / 3, "flexible_extract": 2 / 3}, 2 / 3)
    assert found.values.tolist() == [1.0, 1.0, 0.0]


def test_the_right_choice_by_place_text_or_letter(tmp_path):
    labelled = {"text": ["x", "y"], "label": ["1", "2"]}
    rows = [{"choices": ["x", "y"], "gold": gold} for gold in (1, "1", "y", "B", True)]
    rows += [{"choices": labelled, "gold": "2"}, {"choices": ["1", "0"], "gold": "0"}]
    file = written(tmp_path / "x.jsonl", [row | {"query": "?"} for row in rows])
    assert [item.gold for item in load_suite({"multiple_choice": file}).items] == [1] * 7
    for gold in (2, -1, "z", None, 0.5):
        bad = written(tmp_path / "bad.jsonl", [{"query": "?", "choices": ["x", "y"], "gold": gold}])
        with pytest.raises(UserError, match=r"bad\.jsonl:1: gold"):
            load_suite({"multiple_choice": bad})


def test_choices_that_all_rows_share_are_classes(tmp_path):
    rows = [{"query": "?", "gold": name} for name in ("no", "yes", "yes", "yes")]
    keys = {"multiple_choice": written(tmp_path / "x.jsonl", rows), "choices": ["no", "yes"], "metric": "f1_macro"}
    suite = load_suite(keys)
    said = Said(rows=[{"picked": picked, "picked_norm": picked} for picked in (0, 1, 1, 0)])
    found = multiple_choice.judge(suite.keys, suite.items, said)
    assert found.metrics == pytest.approx({"acc": 0.75, "acc_norm": 0.75, "f1_macro": (2 / 3 + 0.8) / 2})
    assert found.values.mean() == pytest.approx(found.value)
    with pytest.raises(UserError, match="choices: a list that all rows share"):
        load_suite({**keys, "choices": "gold"})


def test_written_texts_by_every_metric(tmp_path):
    rows = [
        {"prompt": "?", "answer": "the cat sat on the mat"},
        {"prompt": "?", "answer": ["a dog", "the dog ran far"]},
    ]
    rows.append({"prompt": "?", "answer": {"text": ["it was late in the day"], "answer_start": [3]}})
    file = written(tmp_path / "x.jsonl", rows)
    suite = load_suite({"generation": file, "metric": "bleu"})
    texts = ["the cat is on the mat", "the dog ran far", "it was late in the night"]
    said = [{"reply": text, "rouge_l": 0.5, "f1": 1.0, "exact_match": 0.0} for text in texts]
    found = generation.judge(suite.keys, suite.items, Said(rows=said))
    whole = bleu(texts, [item.references for item in suite.items])
    assert found.metrics == pytest.approx({"rouge_l": 0.5, "f1": 1.0, "exact_match": 0.0, "bleu": whole})
    without = [
        bleu(texts[:n] + texts[n + 1 :], [i.references for k, i in enumerate(suite.items) if k != n]) for n in range(3)
    ]
    assert found.values == pytest.approx(whole - 2 * (np.array(without) - np.mean(without)))


def test_rows_of_several_objects_are_categories(tmp_path):
    for name in ("one", "two"):
        rows = [{"input": f"{name}?", "target": name}] * 2
        (tmp_path / f"{name}.json").write_text(json.dumps({"canary": "x", "examples": rows}), encoding="utf-8")
    keys = {"rows": "examples", "prompt": "{input}", "answer": "{target}", "category": "{file}"}
    suite = load_suite({"exact_match": str(tmp_path), **keys})
    assert [item.category for item in suite.items] == ["one", "one", "two", "two"]
    said = Said(rows=[{"right": right} for right in (True, False, True, True)])
    assert exact_match.judge(suite.keys, suite.items, said).value == 0.75
    with pytest.raises(UserError, match=r"no list 'rows' \(it has canary, examples\)"):
        load_suite({"exact_match": str(tmp_path), **keys, "rows": "rows"})


def test_a_study_takes_metrics_that_rise(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("\n".join(f"line {n} of a book" for n in range(400)), encoding="utf-8")
    suite = load_suite({"perplexity": str(file), "join": True, "metric": "bits_per_byte"}, rising=True)
    assert (suite.metric, len(suite.items)) == ("byte_probability", 4)
    text = "".join(item.example.text for item in suite.items)
    assert text == file.read_text(encoding="utf-8")
    assert load_suite({"perplexity": str(file)}, 5).name == "book-perplexity-first-5"


REAL = {
    "gsm8k": {"data": "gsm8k/test.jsonl", "fewshot": "gsm8k/train.jsonl"},
    "arc_easy": {"data": "eval-mc/arc_easy_1000.jsonl"},
    "copa": {"data": "eval-mc/copa.jsonl"},
    "winogrande": {"data": "eval-mc/winogrande_600.jsonl"},
    "lambada": {"data": "eval-mc/lambada_1000.jsonl"},
    "bbh": {"data": "bbh"},
    "sst2": {"data": "seqcls/sst2_dev.csv"},
}
ITEMS = {"gsm8k": 1319, "arc_easy": 1000, "copa": 100, "winogrande": 600, "lambada": 1000, "bbh": 3186, "sst2": 872}


@pytest.mark.skipif(not DATA.is_dir(), reason="no shared data sets")
@pytest.mark.parametrize("name", REAL)
def test_shipped_suites_read_real_rows(name):
    changed = {key: str(DATA / place) for key, place in REAL[name].items()}
    suite = load_suite({"suite": str(ROOT / "suites" / f"{name}.yaml"), **changed})
    assert (suite.name, len(suite.items)) == (name, ITEMS[name])


def test_every_suite_file_is_tested():
    assert sorted(file.stem for file in (ROOT / "suites").glob("*.yaml")) == sorted(REAL)
