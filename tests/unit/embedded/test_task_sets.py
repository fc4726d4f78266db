# SPDX-License-Identifier: Apache-2.0
"""The shipped sets with labels, tags, answers, pairs and translations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from transformers import PreTrainedTokenizerFast

from luthier.core.tasks import Labelled, Question, Tagged, Texts
from luthier.core.types import Conversation
from luthier.data import prepare
from luthier.data.originals import originals
from luthier.models import load_tokenizer
from luthier.recipe.schema import Data

ROOT = Path(__file__).resolve().parents[3]
SETS = ROOT / "src" / "luthier" / "models" / "embedded" / "sets"
KINDS = {
    "classify": ("labelled", Labelled),
    "tags": ("tagged", Tagged),
    "questions": ("question", Question),
    "pairs": ("texts", Texts),
    "similar": ("texts", Texts),
    "translate": ("plain", Conversation),
}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    sys.path.insert(0, str(ROOT / "embedded"))
    try:
        import sets
        import tasks
    finally:
        sys.path.remove(str(ROOT / "embedded"))
    tasks.SEED = sets.SEEDS["tasks"]
    return tasks


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer("embedded-tiny")


def rows(name: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (SETS / f"{name}_{split}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", KINDS)
def test_the_generator_writes_the_shipped_rows(generator: ModuleType, name: str, split: str) -> None:
    assert generator.task_rows(name, split, generator.SEED) == rows(name, split)
    assert (SETS / f"{name}_{split}.jsonl").stat().st_size <= 60_000


@pytest.mark.parametrize("name", KINDS)
def test_no_test_row_was_trained_on(name: str) -> None:
    train, test = ([json.dumps(row, sort_keys=True) for row in rows(name, split)] for split in ("train", "test"))
    assert not set(train) & set(test)
    assert len(set(test)) == len(test)


@pytest.mark.parametrize("name", KINDS)
def test_every_row_is_kept(
    name: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    kind, made = KINDS[name]
    data = Data(train=f"embedded:{name}_train", eval=f"embedded:{name}_test")
    train = prepare(data, tokenizer, which="train", kind=kind)
    held_out = prepare(data, tokenizer, which="eval", kind=kind, labels=train.labels)
    for prepared, split in ((train, "train"), (held_out, "test")):
        account = prepared.ledger.accounts[0]
        assert account.kept == account.read == len(rows(name, split))
        assert account.lost == 0
        assert all(isinstance(original.example, made) for original in originals(prepared))


def test_answers_stand_in_their_context() -> None:
    for row in rows("questions", "train") + rows("questions", "test"):
        start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        assert row["context"][start : start + len(text)] == text


def test_both_moods_are_as_frequent() -> None:
    share = sum(row["label"] == "positive" for row in rows("classify", "train")) / 400
    assert 0.4 < share < 0.6
