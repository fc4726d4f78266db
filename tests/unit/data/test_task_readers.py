# SPDX-License-Identifier: Apache-2.0
"""CoNLL files, SQuAD's nested JSON, CSV and TSV without column names."""

from __future__ import annotations

import json

import pytest

from luthier.core.errors import DataError
from luthier.data.faults import RowFault
from luthier.data.readers import array
from luthier.data.source import locate
from luthier.recipe.schema import Source


def rows(path, said=None, **keys) -> list:
    [part] = locate(Source(path=str(path), **keys), "train", (said if said is not None else []).append)
    return list(part.rows())


def conll(tmp_path, text: str, name: str = "x.conll") -> list:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return rows(tmp_path / name)


def test_conll(tmp_path):
    found = conll(tmp_path, "-DOCSTART-\tO\n\nNina\tB-PER\nlives\tO\n\t\n\n#rome\tO\n")
    assert found == [
        (3, {"tokens": ["Nina", "lives"], "tags": ["B-PER", "O"]}),
        (7, {"tokens": ["#rome"], "tags": ["O"]}),
    ]


def test_conll_of_four_columns_and_comments(tmp_path):
    found = conll(tmp_path, "# id 7 domain=en x\nEU NNP I-NP B-ORG\r\nrejects  VBZ I-VP O\r\n\r\n# 2\nA DT X O\n")
    assert [number for number, _ in found] == [2, 6]
    assert found[0][1] == {
        "tokens": ["EU", "rejects"],
        "column_2": ["NNP", "VBZ"],
        "column_3": ["I-NP", "I-VP"],
        "tags": ["B-ORG", "O"],
    }


def test_a_broken_line_costs_its_sentence(tmp_path):
    found = conll(tmp_path, "a\tO\n\nb\tO\nc\nd\tO\n\ne\tO\n")
    assert [number for number, _ in found] == [1, 3, 7]
    assert isinstance(found[1][1], RowFault)
    assert str(found[1][1]) == "not as many fields as the first line (1 in line 4)"


def test_conll_that_is_none(tmp_path):
    with pytest.raises(DataError, match="one field: 'just'"):
        conll(tmp_path, "just\nwords\n")
    with pytest.raises(DataError, match="no word in its first 2 lines"):
        conll(tmp_path, "-DOCSTART-\tO\n-DOCSTART-\tO\n")


SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "x",
            "paragraphs": [
                {
                    "context": "abc",
                    "qas": [
                        {"id": "1", "question": "q", "answers": [{"text": "b", "answer_start": 1}]},
                        {"id": "2", "question": "r", "is_impossible": True, "answers": [], "plausible_answers": [1]},
                    ],
                }
            ],
        },
        {"paragraphs": [{"context": "d", "qas": [{"id": "3", "question": "s"}]}, {"context": "e", "qas": 3}]},
    ],
    "end": {"a": [1]},
}


@pytest.mark.parametrize("indent", [None, 2])
def test_squad(tmp_path, indent):
    (tmp_path / "x.json").write_text(json.dumps(SQUAD, indent=indent))
    said = []
    found = rows(tmp_path / "x.json", said)
    assert "one JSON object of articles, as in SQuAD" in said[0]
    assert [number for number, _ in found] == [1, 2, 3, 4]
    assert [row["context"] for _, row in found[:3]] == ["abc", "abc", "d"]
    assert [row["answers"] for _, row in found[:3]] == [[{"text": "b", "answer_start": 1}], [], []]
    assert str(found[3][1]) == "not paragraphs of questions, as in SQuAD (null in article 2)"


def test_squad_that_breaks_off(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(SQUAD)[:-40])
    with pytest.raises(DataError, match=r"x\.json, line 1, column \d+: unterminated string"):
        rows(tmp_path / "x.json")


@pytest.mark.parametrize("head", ['{"data": [1', '[{"paragraphs": [', '{"data": {"paragraphs"', '{"a": 1}\n{"b"'])
def test_what_is_not_squad(head):
    assert not array.is_squad(head.encode())


def test_columns_by_number(tmp_path):
    (tmp_path / "x.csv").write_text('a man,"two\nlines, one field",5.0\nb,c,1\nd\n')
    columns = {"sentence1": 0, "sentence2": 1, "score": 2}
    found = rows(tmp_path / "x.csv", columns=columns)
    assert found[:2] == [
        (1, {"0": "a man", "1": "two\nlines, one field", "2": "5.0"}),
        (2, {"0": "b", "1": "c", "2": "1"}),
    ]
    assert str(found[2][1]) == "not as many fields as the first row (1 for 3)"
    assert rows(tmp_path / "x.csv")[0] == (1, dict(zip(("a man", "two\nlines, one field", "5.0"), "bc1", strict=True)))


def test_numbers_and_names_do_not_mix(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="columns: names and numbers; numbers from 0 for a file without"):
        rows(tmp_path / "x.csv", columns={"text": 0, "label": "b"})
    (tmp_path / "x.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="columns: numbers; names: only CSV and TSV"):
        rows(tmp_path / "x.jsonl", columns={"text": 0})


def test_a_number_beyond_the_fields(tmp_path, prepared):
    (tmp_path / "x.csv").write_text("a,b\nc,d\n")
    with pytest.raises(DataError, match=r"columns\.target: there is no field 2; 0 to 1: a row has 2 fields"):
        prepared([{"path": str(tmp_path / "x.csv"), "columns": {"source": 0, "target": 2}}])


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ('"Who?" "Me."\tb\n"c"\td\n', {"0": '"Who?" "Me."', "1": "b"}),  # quotation marks of a sentence
        ('"a\tb"\tc\n"d"\te\n', {"0": "a\tb", "1": "c"}),  # quoted as in CSV
        ('"a\nb\nc\td\n', None),
    ],
)
def test_quotes_in_tsv(tmp_path, text, first):
    (tmp_path / "x.tsv").write_text(text)
    found = rows(tmp_path / "x.tsv", columns={"source": 0, "target": 1})
    if first is not None:
        assert found[0] == (1, first)
