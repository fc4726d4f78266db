# SPDX-License-Identifier: Apache-2.0
"""`luthier data` of rows that are read and not written, and what the token gate says of them."""

from __future__ import annotations

import contextlib
import json

import pytest
from tests.unit.data.encoders import bert, t5
from transformers import PreTrainedTokenizerFast

from luthier import models
from luthier.cli import main
from luthier.core.errors import DataError
from luthier.data import prepare
from luthier.recipe.schema import Data

CONTEXT = "Nina lives in Rome. " * 8
QUESTION = {"question": "Where?", "context": CONTEXT, "answers": {"text": ["Rome"], "answer_start": [14]}}


@pytest.fixture
def shown(capsys, monkeypatch):
    """What `luthier data` prints on stdout."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")

    def _shown(*words: str, tokenizer=None) -> str:
        monkeypatch.setattr(models, "load_tokenizer", lambda *_, **__: tokenizer or bert())
        with contextlib.suppress(SystemExit):
            main(["data", *words])
        out, err = capsys.readouterr()
        assert out, err
        return out

    return _shown


def test_labels(shown, write):
    file = write({"text": "a test", "label": "good"}, {"text": "again", "label": "bad"})
    out = shown(file)
    assert "[CLS] a test [SEP]\nlabels: good" in out
    assert "labels: bad 1, good 1" in out
    told = json.loads(shown(file, "--json"))
    assert [row["labels"] for row in told["rows"]] == [["good"], ["bad"]]
    assert told["labels"] == {"bad": 1, "good": 1}
    assert "grade" not in out


def test_several_labels_and_values(shown, write):
    told = json.loads(shown(write({"text": "a", "labels": ["x", "y"]}, {"text": "a", "labels": []}), "--json"))
    assert [row["labels"] for row in told["rows"]] == [["x", "y"], []]
    values = json.loads(shown(write({"sentence": "a", "score": 2.5}), "--json"))
    assert values["rows"][0]["labels"] == [2.5]


def test_tags_stand_below_words(shown, write):
    words = "Nina lives in unbelievable Rome and again and again Tom".split()
    out = shown(write({"tokens": words, "tags": ["B-PER", "O", "O", "O", "B-LOC", "O", "O", "O", "O", "B-PER"]}))
    lines = out.splitlines()
    at = next(place for place, line in enumerate(lines) if "nina" in line)
    assert lines[at].index("nina") == lines[at + 1].index("B-PER")
    assert lines[at].index("rome") == lines[at + 1].index("B-LOC")
    assert "tom" in lines[at + 2]
    assert all(len(line) <= 60 for line in lines[at : at + 4])


def test_an_answer_is_marked_and_its_absence_told(shown, write):
    out = shown(write(QUESTION), "data.max_length=24", "data.doc_stride=4", "--rows", "9")
    assert out.count("⟦ rome⟧") == 1
    assert "no answer in this window" in out
    told = json.loads(shown(write(QUESTION), "data.max_length=24", "data.doc_stride=4", "--json"))
    assert [row["answer"] for row in told["rows"]][:2] == [True, False]
    assert told["ledger"]["total"]["windows"] > told["ledger"]["total"]["kept"] == 1


def test_texts_that_belong_together(shown, write):
    file = write({"sentence1": "nina", "sentence2": "tom", "score": 3.5}, name="scored.jsonl")
    out = shown(write({"anchor": "nina", "positive": "tom"}))
    assert "text 1, 4 tokens: [CLS] nina [SEP]" in out
    assert "text 2, grade 1, 4 tokens: [CLS] tom [SEP]" in out
    assert "prompts:" not in out
    told = json.loads(shown(file, "--json", f"data.train={{path: {file}, format: pairs}}"))
    assert [(text["grade"], text["score"]) for text in told["rows"][0]["texts"]] == [(None, 3.5), (None, 3.5)]


def test_a_source_and_its_target(shown, write):
    file = write({"source": "a test", "target": "again"})
    out = shown(file, "model.task_type=SEQ_2_SEQ_LM", tokenizer=t5())
    assert "source: a test</s>" in out
    assert "target: ⟦again</s>⟧" in out


class Odd(PreTrainedTokenizerFast):
    """A tokenizer whose calls leave out the last token."""

    def __call__(self, *texts, **keys):
        found = super().__call__(*texts, **keys)
        found["input_ids"] = found["input_ids"][:-1]
        return found


def test_other_tokens_than_a_server_makes_stop_the_run(write):
    odd = Odd(tokenizer_object=bert().backend_tokenizer)
    data = Data(train=write({"text": "a test", "label": 1}, {"text": "b", "label": 0}))
    with pytest.raises(
        DataError, match=r"rows\.jsonl:1: the training tokens differ from tokenizer\(text\)'s at token 5"
    ):
        prepare(data, odd, which="train", kind="labelled")


def test_special_tokens_in_texts_are_noted(write):
    data = Data(train=write({"text": "a [SEP] test", "label": 1}, {"text": "b", "label": 0}))
    notes = prepare(data, bert(), which="train", kind="labelled").ledger.accounts[0].notes
    assert notes == ["rows hold [SEP] as text: it is read as that token, here and by a server"]
