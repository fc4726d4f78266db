# SPDX-License-Identifier: Apache-2.0
"""Rows that an objective learns nothing from are refused before a model is loaded; others' answers come where asked."""

from __future__ import annotations

import json

import pytest
from tests.runs import tree

from luthier.core.errors import DataError
from luthier.data.mismatch import Mismatched
from luthier.engine.rows import read_batches, read_rows
from luthier.recipe import load_recipe

PAIR = {"instruction": "Two and two?", "chosen": "Four.", "rejected": "Five."}
SINGLE = {"instruction": "Two and two?", "output": "Four.", "label": True}
RANKED = {"instruction": "Two and two?", "answers": ["Four.", "Five."], "scores": [1, 0]}
HALF = RANKED | {"scores": [0.5, 0.25]}


@pytest.fixture
def made(tiny_llama, tmp_path):
    """A recipe whose sources hold these rows."""

    def make(objective, *sources, **data):
        paths = []
        for number, rows in enumerate(sources):
            paths.append(str(tmp_path / f"{number}.jsonl"))
            with open(paths[-1], "w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        return load_recipe(
            tree(tiny_llama, paths[0], tmp_path / "run", objective=objective, data={"train": paths} | data)
        ).recipe

    return make


def read(recipe):
    return read_rows(recipe, lambda _: None)


@pytest.mark.parametrize("name", ["dpo", "ipo", "orpo", "simpo", "cpo", "reward"])
def test_single_answers_are_no_pairs(made, name):
    with pytest.raises(DataError, match=rf"0\.jsonl: none of its 3 rows counts for objective {name} \(format unpaired"):
        read(made(name, [SINGLE] * 3))


def test_each_source_is_looked_at(made, tmp_path):
    with pytest.raises(DataError, match=r"data\.train: .*1\.jsonl: none of its 2 rows"):
        read(made("dpo", [PAIR] * 3, [SINGLE] * 2))
    assert len(read(made("dpo", [PAIR] * 3, [RANKED] * 2)).train.rows) == 5
    with pytest.raises(DataError, match=r"data\.eval: .*1\.jsonl: none of its 2 rows"):
        read(made("dpo", [PAIR] * 3, [SINGLE] * 2, train=str(tmp_path / "0.jsonl"), eval=str(tmp_path / "1.jsonl")))


def test_a_grade_without_a_meaning_is_told_before_anything_is_trained(made):
    """Not in the step that meets it: it is the last row of six."""
    with pytest.raises(DataError, match=r"0\.jsonl:6: an answer has the grade 0\.5"):
        read(made("kto", [RANKED] * 5 + [HALF]))
    assert len(read(made("dpo", [RANKED] * 5 + [HALF])).train.rows) == 6


def test_other_rows_answers_come_where_the_kl_is_estimated(made):
    with_others, without = (
        made("kto", [SINGLE] * 4),
        made({"name": "kto", "loss_type": "apo_zero_unpaired"}, [SINGLE] * 4),
    )
    assert isinstance(read(with_others).batches.rows, Mismatched)
    plain = read(without).batches
    assert not isinstance(plain.rows, Mismatched)
    assert sum(read_batches(with_others, lambda _: None).rows.lengths) > sum(plain.rows.lengths)
    assert len(read(made({"name": "kto", "loss_type": "apo_zero_unpaired"}, [SINGLE])).train.rows) == 1


def test_one_row_has_no_other(made, tmp_path):
    with pytest.raises(DataError, match=r"data\.train: one row only.*apo_zero_unpaired"):
        read(made("kto", [SINGLE]))
    with pytest.raises(DataError, match=r"data\.eval: one row only"):
        read(made("kto", [SINGLE] * 2, [SINGLE], train=str(tmp_path / "0.jsonl"), eval=str(tmp_path / "1.jsonl")))


def test_a_score_outside_its_range_is_told_before_anything_is_trained(made):
    """Not in the step that meets it: it is neither the first row nor the first of a grade."""
    pairs = [{"sentence1": "a", "sentence2": "b", "score": score} for score in (0.5, 1.0, 0.0, 7.0, 0.2)]
    recipe = made("cosine", pairs)
    with pytest.raises(DataError, match=r"0\.jsonl:4: a score of 7; objective\.score_range, 0 to 1"):
        read(recipe)
