# SPDX-License-Identifier: Apache-2.0
"""Objectives of labels and spans equal the losses of transformers' own classes on a padded batch.

The classes get labels and a batch padded to its longest row; the objective gets the same logits without padding.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.judged import bound, loss_of, rows_for, units_of
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification

from luthier.core.tasks import IGNORED

pytestmark = pytest.mark.parity
SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def model_of(kind, count, **words):
    torch.manual_seed(5)
    config = BertConfig(**SMALL, num_labels=count, initializer_range=0.3, **words)
    return kind(config).eval()


def padded(trees):
    """Token ids, the mask, and how many tokens each row has."""
    lengths = [len(tree) for tree in trees]
    ids, mask = np.zeros((2, len(trees), max(lengths)), np.int64)
    for row, tree in enumerate(trees):
        ids[row, : lengths[row]] = tree.segments[0].ids
        mask[row, : lengths[row]] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}, lengths


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_sequence_classification(problem):
    keys = {"problem_type": problem}
    trees = [tree for tree in rows_for("classification", keys) if tree.targets]
    batch, _ = padded(trees)
    targets = torch.tensor([tree.targets for tree in trees])
    labels = targets[:, 0].long() if problem == "single_label_classification" else targets
    model = model_of(BertForSequenceClassification, 1 if problem == "regression" else 3, problem_type=problem)
    theirs = model(**batch, labels=labels)
    ours = loss_of(bound("classification", keys), trees, list(theirs.logits.split(1)))
    assert ours.total.item() / len(trees) == pytest.approx(theirs.loss.item(), rel=1e-6)


def test_token_classification():
    trees = [tree for tree in rows_for("token_classification") if tree.segments[0].labels is not None]
    batch, lengths = padded(trees)
    labels = np.full(batch["input_ids"].shape, IGNORED)
    for row, tree in enumerate(trees):
        labels[row, : lengths[row]] = tree.segments[0].labels
    theirs = model_of(BertForTokenClassification, 4)(**batch, labels=torch.from_numpy(labels))
    outputs = [logits[:length] for logits, length in zip(theirs.logits, lengths, strict=True)]
    objective = bound("token_classification", {})
    ours = loss_of(objective, trees, outputs).total.item() / units_of(objective, trees)
    assert ours == pytest.approx(theirs.loss.item(), rel=1e-6)


def test_question_answering():
    """One row at a time: transformers counts padding among the tokens that might be right."""
    model, objective = model_of(BertForQuestionAnswering, 2), bound("question_answering", {})
    trees = [tree for tree in rows_for("question_answering") if tree.targets]
    expected, outputs = [], []
    for tree in trees:
        batch, _ = padded([tree])
        start, end = (torch.tensor([int(target)]) for target in tree.targets)
        theirs = model(**batch, start_positions=start, end_positions=end)
        expected.append(theirs.loss.item())
        outputs.append(torch.stack([theirs.start_logits[0], theirs.end_logits[0]], dim=1))
    ours = loss_of(objective, trees, outputs).total.item() / units_of(objective, trees)
    assert ours == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_label_smoothing_is_the_trainers(smoothing):
    from transformers.trainer_pt_utils import LabelSmoother

    trees = [tree for tree in rows_for("classification") if tree.targets]
    logits = torch.randn(len(trees), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([int(tree.targets[0]) for tree in trees])
    theirs = LabelSmoother(epsilon=smoothing)({"logits": logits}, labels)
    ours = loss_of(bound("classification", {"label_smoothing_factor": smoothing}), trees, list(logits.split(1)))
    assert ours.total.item() / len(trees) == pytest.approx(theirs.item(), rel=1e-7)  # theirs adds up in float32
