# SPDX-License-Identifier: Apache-2.0
"""Loading for a task: heads drawn or kept, labels in the configuration, and what is not loaded for another purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.encoders import encoder, folder_of, texts
from tests.reward import base
from transformers import AutoConfig, AutoModelForMaskedLM

from luthier.core.errors import ModelError
from luthier.core.tasks import Labels
from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.models import load_model, outputs
from luthier.models.generate import generate
from luthier.models.heads import drawn_modules, head_modules, task_of_model
from luthier.models.probe import prove_forest
from luthier.models.save import save_model
from luthier.recipe import Model

NAMES = Labels(names=("no", "maybe", "yes"))


def test_a_head_is_drawn_from_the_seed_with_its_labels(tmp_path: Path) -> None:
    folder, said = folder_of(tmp_path, "RoBERTa"), []
    torch.manual_seed(1)
    first = encoder(folder, "SEQ_CLS", labels=NAMES, seed=5, say=said.append)
    torch.manual_seed(2)
    again = encoder(folder, "SEQ_CLS", labels=NAMES, seed=5)
    assert torch.equal(first.classifier.dense.weight, again.classifier.dense.weight)
    assert not torch.equal(first.classifier.dense.weight, encoder(folder, "SEQ_CLS", seed=6).classifier.dense.weight)
    assert any("values classifier.dense (32, 32), classifier.out_proj (3, 32) is drawn from seed 5" in s for s in said)
    assert first.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert first.config.label2id["yes"] == 2
    assert first.config.problem_type == "single_label_classification"
    save_model(first, tmp_path / "saved")
    quiet: list[str] = []
    kept = encoder(tmp_path / "saved", "SEQ_CLS", num_labels=None, labels=NAMES, say=quiet.append)
    assert quiet == []
    assert torch.equal(kept.classifier.dense.weight, first.classifier.dense.weight)
    assert drawn_modules(kept) == ()


def test_other_labels_or_another_order_are_refused(tmp_path: Path) -> None:
    save_model(encoder(folder_of(tmp_path, "BERT"), "TOKEN_CLS", labels=NAMES), tmp_path / "saved")
    for names in (("yes", "maybe", "no"), ("a", "b", "c")):
        with pytest.raises(ModelError, match=r"a head for the labels no, maybe, yes.*data.labels: \[no, maybe, yes\]"):
            encoder(tmp_path / "saved", "TOKEN_CLS", labels=Labels(names=names))
    with pytest.raises(ModelError, match="a head of 3 values where 2 are asked for"):
        encoder(tmp_path / "saved", "TOKEN_CLS", num_labels=2)


@pytest.mark.parametrize("task", ["SEQ_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"])
def test_what_was_trained_for_one_task_is_not_loaded_for_another(task, tmp_path: Path) -> None:
    save_model(encoder(folder_of(tmp_path, "BERT"), "TOKEN_CLS", labels=NAMES), tmp_path / "saved")
    with pytest.raises(ModelError, match=f"trained for TOKEN_CLS, where {task} is asked for.*task_type: TOKEN_CLS"):
        encoder(tmp_path / "saved", task)


def test_a_pooler_that_is_missing_trains_with_the_head_or_is_left_out(tmp_path: Path) -> None:
    """A checkpoint for masked words has no pooler: drawn where a head reads it, taken out where nobody does."""
    config = AutoConfig.from_pretrained(folder_of(tmp_path, "BERT"))
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "masked")
    said: list[str] = []
    values = encoder(tmp_path / "masked", "SEQ_CLS", say=said.append)
    assert set(head_modules(values)) == {"classifier", "bert.pooler.dense"}
    assert any("bert.pooler.dense (32, 32), classifier (3, 32) is drawn" in line for line in said)
    vectors = encoder(tmp_path / "masked", "FEATURE_EXTRACTION", say=said.append)
    assert vectors.pooler is None
    assert any("has no pooler, and nothing reads one" in line for line in said)
    save_model(vectors, tmp_path / "vectors")
    prove_forest(encoder(tmp_path / "vectors", "FEATURE_EXTRACTION"), "again")
    assert task_of_model(load_model(Model(model_name_or_path=str(tmp_path / "masked")), torch.float32, task=None)) == (
        "FEATURE_EXTRACTION"
    )


def test_any_other_missing_weight_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "BERT")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for task in ("SEQ_CLS", "FEATURE_EXTRACTION"):
        with pytest.raises(ModelError, match=r"1 weights are missing in the checkpoint \(.*output.dense.weight"):
            encoder(folder, task)  # type: ignore[arg-type]


def test_a_decoder_s_names_fit_its_class_for_spans(tmp_path: Path) -> None:
    model = encoder(base(tmp_path / "llama"), "QUESTION_ANS")
    assert type(model).__name__ == "LlamaForQuestionAnswering"
    forest = texts((5, 3))
    forest = replace(forest, input_ids=forest.input_ids % 60)
    said = outputs(model, forest)
    assert said.shape == (8, 2)
    model.config.save_pretrained(tmp_path / "saved")
    save_model(model, tmp_path / "saved")  # under its own names: transformers would write those it was loaded from
    assert "transformer.embed_tokens.weight" in load_file(tmp_path / "saved" / "model.safetensors")
    again = encoder(tmp_path / "saved", "QUESTION_ANS")
    torch.testing.assert_close(outputs(again, forest), said, rtol=0, atol=0)


def test_texts_are_whole_and_no_longer_than_the_positions(tmp_path: Path) -> None:
    model = encoder(folder_of(tmp_path, "RoBERTa"), "SEQ_CLS")
    assert outputs(model, texts((20,))).shape == (1, 3)
    with pytest.raises(ModelError, match="an example of 21 tokens; at most 20: the model has learned no more"):
        outputs(model, texts((21,)))
    segment = Segment(ids=np.arange(3, 7, dtype=np.int32), scored=np.zeros(4, np.bool_))
    judged = plant([Tree(segments=(segment, segment), parents=(-1, 0))])
    with pytest.raises(ModelError, match=r"a text with several continuations.*whole texts"):
        outputs(model, judged)
    with pytest.raises(ModelError, match=r"token_type_ids up to 1; its config.json knows 1"):
        outputs(model, texts((6,), parts=2))


def test_texts_under_an_empty_root_are_read_alone(tmp_path: Path) -> None:
    """Rows of texts that belong together are trees whose root has no tokens."""
    model = encoder(folder_of(tmp_path, "BERT"), "FEATURE_EXTRACTION")
    flat = texts((5, 3, 4))
    empty = Segment(ids=np.zeros(0, np.int32), scored=np.zeros(0, np.bool_))
    ids = flat.input_ids.numpy().astype(np.int32)
    parts = [Segment(ids=ids[a:b], scored=np.zeros(b - a, np.bool_)) for a, b in ((0, 5), (5, 8), (8, 12))]
    tree = plant([Tree(segments=(empty, *parts), parents=(-1, 0, 0, 0))])
    with torch.no_grad():
        assert (outputs(model, tree) - outputs(model, flat)).abs().max() <= 1e-6


def test_nothing_but_a_language_model_generates(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a model for TOKEN_CLS: its head gives labels, not words"):
        generate(encoder(folder_of(tmp_path, "BERT"), "TOKEN_CLS"), None, ["a"])  # type: ignore[arg-type]
