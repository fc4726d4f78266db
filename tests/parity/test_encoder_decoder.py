# SPDX-License-Identifier: Apache-2.0
"""A padded pass of an encoder-decoder equals transformers' own class on each pair alone: loss and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.pairs import PROVEN, pair, some_pairs, tiny_pairs

from luthier.core.errors import ModelError
from luthier.kernels.forest import plant
from luthier.models import outputs
from luthier.models.encoder_decoder import batches, computed_tokens
from luthier.models.probe import prove_forest
from luthier.models.probe_pairs import separate_pairs

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("name", PROVEN)
def test_loss_and_gradients_equal_the_class_with_labels(name: str) -> None:
    """In float64, where only the floor of the class's own float32 parts is left."""
    model = tiny_pairs(name).double()
    rows = some_pairs(9)
    found = outputs(model, plant(rows))
    losses = []
    for tree in rows:
        source, target = (torch.from_numpy(segment.ids).long()[None] for segment in tree.segments)
        losses.append(model(input_ids=source, labels=target).loss * target.shape[1])
    wanted = torch.stack(losses).sum()
    assert float(-found.sum() - wanted) == pytest.approx(0.0, abs=1e-6 * abs(float(wanted)))
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(-found.sum(), parameters, allow_unused=True)
    theirs = torch.autograd.grad(wanted, parameters, allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert float((mine - other).abs().max()) <= 1e-5 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("name", PROVEN)
def test_the_probe_passes_and_sees_a_wrong_head(name: str) -> None:
    model = tiny_pairs(name)
    assert prove_forest(model, name) < 1e-3  # logits without a scale are in the hundreds here
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, logits: 2 * logits)
    with pytest.raises(ModelError, match="padded pass differs"):
        prove_forest(model, name)


def test_one_source_with_several_targets_is_encoded_once() -> None:
    model, encoded = tiny_pairs("T5"), []
    model.get_encoder().register_forward_hook(lambda module, args, out: encoded.append(out[0].shape))
    forest = plant([pair([5, 6, 7, 1], [8, 9, 1], [10, 1]), pair([4, 1], [11, 12, 1])])
    found = outputs(model, forest)
    assert sum(shape[0] for shape in encoded) == 2
    with torch.no_grad():
        assert torch.allclose(found.double(), separate_pairs(model, forest), atol=1e-5)


def test_tokens_that_are_not_scored_are_read_and_not_predicted() -> None:
    model = tiny_pairs("BART")
    tree = pair([5, 6, 2], [8, 9, 10, 2])
    whole = outputs(model, plant([tree]))
    tree.segments[1].scored[:2] = False
    assert torch.allclose(outputs(model, plant([tree])), whole[2:], atol=1e-6)


def test_batches_hold_every_target_once_and_pad_little() -> None:
    forest = plant(some_pairs(60, longest=40))
    cut = batches(forest, 16)
    assert sorted(target for batch in cut for target in batch.targets) == list(range(1, 120, 2))
    together, real = batches(forest, 10**9), forest.num_tokens
    assert len(together) == 1
    assert sum(batch.computed for batch in cut) == computed_tokens(forest)
    assert computed_tokens(forest) < 1.25 * real < 1.6 * real < together[0].computed


def test_rows_of_another_form_and_texts_beyond_the_positions_are_refused() -> None:
    model, whole = tiny_pairs("BART"), pair([5, 6, 2])
    whole.segments[0].scored[1:] = True
    with pytest.raises(ModelError, match="without a source"):
        outputs(model, plant([whole]))
    with pytest.raises(ModelError, match="a source of 70 tokens"):
        outputs(model, plant([pair([5] * 70, [6, 2])]))
    with pytest.raises(ModelError, match=r"a target of 65 tokens.*set data.max_length to 64"):
        outputs(model, plant([pair([5, 2], [6] * 65)]))


def test_the_page_lists_what_is_proven() -> None:
    text = (Path(__file__).parents[2] / "docs" / "seq2seq.md").read_text(encoding="utf-8")
    for name, (kind, _) in PROVEN.items():
        assert f"| {name} | `{kind}` |" in text
