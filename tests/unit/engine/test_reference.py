# SPDX-License-Identifier: Apache-2.0
"""What the reference is, what is kept of it, and what a run refuses to start from."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from tests.runs import bits, metrics, stop_before, tree

import luthier
from luthier.core import registry
from luthier.core.errors import RecipeError, RunFailed
from luthier.core.home import home
from luthier.engine import reference
from luthier.models import load_model
from luthier.recipe import Model
from luthier.run import preview

WORDS = ("red", "green", "blue", "seven", "north", "salt", "rain", "oak")


@pytest.fixture
def pairs(tmp_path):
    """Twelve pairs, four of which have long answers."""
    file = tmp_path / "pairs.jsonl"
    rows = [
        {
            "instruction": f"Name thing {n} of {WORDS[n % 8]}.",
            "chosen": " ".join(WORDS[: 1 + n % 5]),
            "rejected": f"It is {WORDS[n % 8]} {n}.",
        }
        for n in range(12)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def _nothing_kept():
    shutil.rmtree(home() / "references", ignore_errors=True)


def recipe(model, pairs, folder, /, **sections):
    given = {"objective": {"name": "dpo"}, "method": {"name": "lora", "r": 4}} | sections
    given["train"] = {"max_steps": 3, "per_device_train_batch_size": 4} | given.get("train", {})
    given["train"].setdefault("gradient_accumulation_steps", 1)
    return tree(model, pairs, folder, **given)


def said_by(recipe, **how):
    lines = []
    result = luthier.train(recipe, say=lines.append, **how)
    return result, "\n".join(lines)


def kept():
    return sorted((home() / "references").glob("*")) if (home() / "references").is_dir() else []


def test_once_for_all_rows_is_in_every_step(tiny_llama, pairs, tmp_path):
    """What is kept gives the losses that asking anew in every step gives."""
    once, words = said_by(
        recipe(tiny_llama, pairs, tmp_path / "once", objective={"name": "dpo", "precompute_ref_log_probs": True})
    )
    assert "the policy before its first step" in words
    assert "12 rows are computed" in words
    anew, words = said_by(
        recipe(tiny_llama, pairs, tmp_path / "anew", objective={"name": "dpo", "precompute_ref_log_probs": False})
    )
    assert "asked in every step" in words
    for one, other in zip(metrics(once.folder), metrics(anew.folder), strict=True):
        assert {k: one[k] for k in one} == pytest.approx(other, abs=1e-4)
    assert metrics(once.folder)[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert metrics(once.folder)[-1]["rewards/margins"] != 0.0


def test_what_is_kept_is_read_again(tiny_llama, pairs, tmp_path):
    asked = {"name": "dpo", "precompute_ref_log_probs": True}
    first, _ = said_by(recipe(tiny_llama, pairs, tmp_path / "a", objective=asked))
    other_rank = {"name": "lora", "r": 8}
    _, words = said_by(recipe(tiny_llama, pairs, tmp_path / "b", objective=asked, method=other_rank, seed=7))
    assert "are those kept in" in words
    again, words = said_by(recipe(tiny_llama, pairs, tmp_path / "c", objective=asked))
    assert bits(first.folder) == bits(again.folder)
    assert len(kept()) == 1


def unmarked(folder):
    for file in folder.iterdir():
        file.write_bytes(bytes(file.stat().st_size))


def cut(folder):
    file = folder / "logps.bin"
    file.write_bytes(file.read_bytes()[:-80])


def without_marks(folder):
    (folder / "crc32.bin").write_bytes(b"")


def zeroed(folder):
    file = folder / "logps.bin"
    file.write_bytes(bytes(16) + file.read_bytes()[16:])


def test_what_is_not_whole_is_computed_again(tiny_llama, pairs, tmp_path):
    asked = {"name": "dpo", "precompute_ref_log_probs": True}
    first, _ = said_by(recipe(tiny_llama, pairs, tmp_path / "whole", objective=asked))
    (folder,) = kept()
    for damage in (unmarked, cut, without_marks, zeroed):
        damage(folder)
        again, words = said_by(recipe(tiny_llama, pairs, tmp_path / damage.__name__, objective=asked))
        assert "are computed" in words, damage.__name__
        assert bits(first.folder) == bits(again.folder), damage.__name__


@pytest.mark.parametrize("name", ["dpo", "kto", "ipo"])
def test_full_fine_tuning_needs_no_second_model(tiny_llama, pairs, tmp_path, name):
    """The reference is the model before its first step, and stays it while every weight moves; also when resumed."""
    run = recipe(tiny_llama, pairs, tmp_path / "full", method="full", objective=name, train={"save_steps": 1})
    run["optim"] = {"learning_rate": 1e-2}
    whole, words = said_by(run)
    assert "policy and reference are one before the first step" in words
    assert abs(metrics(whole.folder)[-1]["rewards/margins"]) > 1e-3
    parts = {**run, "output_dir": str(tmp_path / "parts")}
    stop_before(2, parts)
    for folder in kept():
        for file in folder.iterdir():
            file.unlink()
    said_by(parts, resume=True)
    assert bits(tmp_path / "parts") == bits(whole.folder)


def test_in_every_step_is_refused_where_the_reference_moves(tiny_llama, pairs, tmp_path):
    asked = {"name": "dpo", "precompute_ref_log_probs": False}
    with pytest.raises(RecipeError, match=r"precompute_ref_log_probs.*method full"):
        preview(recipe(tiny_llama, pairs, tmp_path / "full", method="full", objective=asked))
    with pytest.raises(RecipeError, match=r"precompute_ref_log_probs.*method full"):
        luthier.train(recipe(tiny_llama, pairs, tmp_path / "full", method="full", objective=asked))


def test_a_loaded_adapter_is_the_reference_never_the_raw_base(tiny_llama, pairs, tmp_path):
    sft = luthier.train(
        tree(
            tiny_llama,
            pairs,
            tmp_path / "sft",
            data={"train": {"path": str(pairs), "format": "alpaca", "columns": {"output": "chosen"}}},
            method={"name": "lora", "r": 4},
            optim={"learning_rate": 5e-2},
        )
    )
    go_on = {"model_name_or_path": str(tiny_llama), "dtype": "float32"}
    go_on["adapter_name_or_path"] = str(sft.folder / "adapter")
    start, words = said_by(recipe(tiny_llama, pairs, tmp_path / "start", model=go_on))
    assert "policy and reference are one before the first step" in words
    assert metrics(start.folder)[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    base, words = said_by(
        recipe(tiny_llama, pairs, tmp_path / "base", model=go_on, objective={"name": "dpo", "reference": "base"})
    )
    assert "its first margins are not 0" in words
    assert abs(metrics(base.folder)[0]["loss"] - np.log(2)) > 1e-3


def test_another_folder_is_the_reference(tiny_llama, pairs, tmp_path):
    """The policy's own folder by name says what `start` says."""
    other, words = said_by(
        recipe(tiny_llama, pairs, tmp_path / "a", objective={"name": "dpo", "reference": str(tiny_llama)})
    )
    own, _ = said_by(recipe(tiny_llama, pairs, tmp_path / "b"))
    assert f"the reference is {tiny_llama}" in words
    for one, two in zip(metrics(other.folder), metrics(own.folder), strict=True):
        assert one == pytest.approx(two, abs=1e-4)


def test_another_tokenizer_is_refused(tiny_llama, pairs, tmp_path):
    """Also where the other vocabulary is the larger one, and every number has an embedding there."""
    larger = recipe(tiny_llama, pairs, tmp_path / "a", objective={"name": "dpo", "reference": "embedded-tiny"})
    with pytest.raises(RecipeError, match=r"objective\.reference: embedded-tiny has another tokenizer: \d+ of the"):
        luthier.train(larger)
    smaller = recipe("embedded-tiny", pairs, tmp_path / "b", objective={"name": "dpo", "reference": str(tiny_llama)})
    with pytest.raises(RecipeError, match="has another tokenizer"):
        luthier.train(smaller)
    assert not kept()


def test_what_cannot_be_a_reference_is_refused(tiny_llama, pairs, tmp_path):
    judge = luthier.train(recipe(tiny_llama, pairs, tmp_path / "judge", objective="reward", train={"max_steps": 1}))
    for name, said in ((judge.folder, "is a reward model"), ("no-such-folder", "model no-such-folder: ")):
        asked = recipe(tiny_llama, pairs, tmp_path / "run", objective={"name": "dpo", "reference": str(name)})
        for start in (luthier.train, preview):
            with pytest.raises(RecipeError, match=rf"objective\.reference: .*{said}"):
                start(asked)


def test_a_reference_that_is_another_model_stops_the_run(tiny_llama, pairs, tmp_path, monkeypatch):
    real = reference.outputs
    calls = []

    def shifted(model, forest):
        calls.append(1)
        return real(model, forest) - 0.2 * (len(calls) == 1)

    monkeypatch.setattr(reference, "outputs", shifted)
    with pytest.raises(RunFailed, match=r"differ by 0\.2 nats a token"):
        luthier.train(recipe(tiny_llama, pairs, tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_digest_is_of_what_answers(tiny_llama):
    """With the method off it is the plain model's, also where biases or whole modules train; else it counts scaling."""
    method, found = registry.get("methods", "lora"), set()
    base = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    plain = reference.digest_of(base)
    for alpha in (8, 16):
        model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
        made = method.apply(model, method.Config(r=2, lora_alpha=alpha, modules_to_save=["lm_head"]))
        with torch.no_grad():
            for parameter in made.parameters().values():
                parameter.fill_(0.5)
        with made.disabled():
            assert reference.digest_of(model, list(made.parameters().values())) == plain
        found.add(reference.digest_of(model))
    assert len(found | {plain}) == 3


def test_dropout_is_off_for_the_reference(tiny_llama, pairs, tmp_path):
    run = recipe(tiny_llama, pairs, tmp_path / "run", method={"name": "lora", "r": 4, "lora_dropout": 0.5})
    run["objective"] = {"name": "dpo", "precompute_ref_log_probs": False}
    result = luthier.train(run)
    assert metrics(result.folder)[0]["loss"] == pytest.approx(
        np.log(2), abs=1e-5
    )  # B is 0: dropout changes nothing yet


def test_evaluation_has_the_metrics_too(tiny_llama, pairs, tmp_path):
    data = {"train": str(pairs), "eval": str(pairs), "max_length": 96}
    result = luthier.train(recipe(tiny_llama, pairs, tmp_path / "run", data=data))
    found = result.summary["evaluation"]["loss"]
    wanted = {"loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected", "kl", "length/chosen"}
    assert wanted <= set(found)
