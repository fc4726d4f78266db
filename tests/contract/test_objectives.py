# SPDX-License-Identifier: Apache-2.0
"""What every objective keeps, whichever it is: a new file in objectives/ is tested here without an edit."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.judged import VARIANTS, bound, judged_tree, loss_of, rows_for, said, taken, units_of

from luthier.core import registry
from luthier.core.trainable import Gathering, Objective, Predicting
from luthier.core.types import Tree, unshared
from luthier.engine.step import joined
from luthier.kernels.forest import plant
from luthier.recipe.tasks import rows_of, tasks_of

OBJECTIVES = list(registry.entries("objectives"))
each = pytest.mark.parametrize("name", OBJECTIVES)
every = pytest.mark.parametrize(("name", "keys"), VARIANTS, ids=lambda value: str(value).replace(" ", ""))


@each
def test_it_says_what_it_is(name):
    module = registry.get("objectives", name)
    fields = module.Config.model_fields
    objective: Objective = module.bind(module.Config())
    assert {key for key, field in fields.items() if not (field.description or "").endswith(".")} == set()
    assert "arXiv" in (type(objective).__doc__ or "")
    assert not {key for key in fields if key == "name"}, "`name` is the recipe's own key"
    assert objective.reference is ("reference" in fields)


@each
def test_unknown_keys_are_refused(name):
    with pytest.raises(ValidationError, match="surely_not_a_key"):
        registry.get("objectives", name).Config(surely_not_a_key=1)


@every
def test_keys_read_back(name, keys):
    """`recipe.yaml` holds every key, also those that nobody wrote."""
    config = registry.get("objectives", name).Config
    assert config(**config(**keys).model_dump()) == config(**keys)


@every
@pytest.mark.parametrize("split", [(1, 1, 1, 1, 1), (2, 3), (4, 1)], ids=str)
def test_micro_batches_do_not_matter(name, keys, split):
    objective, trees = bound(name, keys), rows_for(name, keys)
    whole = [value.requires_grad_() for value in said(name, trees, keys=keys)]
    parts = [value.detach().clone().requires_grad_() for value in whole]
    expected = loss_of(objective, trees, whole)
    losses = taken(objective, trees, parts, split)
    expected.total.backward()
    sum(loss.total for loss in losses).backward()
    assert sum(loss.total.item() for loss in losses) == pytest.approx(expected.total.item(), rel=1e-12)
    for a, b in zip(whole, parts, strict=True):
        assert (a.grad - b.grad).abs().max() < 1e-12
    for key, value in expected.metrics.items():
        assert sum(float(loss.metrics[key]) for loss in losses) == pytest.approx(float(value), rel=1e-12), key
    ends = np.cumsum([0, *split])
    shares = [units_of(objective, trees[a:b]) for a, b in pairwise(ends)]
    assert sum(shares) == units_of(objective, trees) > 0


@every
def test_the_order_of_rows_does_not_matter(name, keys):
    objective, trees = bound(name, keys), rows_for(name, keys)
    outputs = said(name, trees, keys=keys)
    back = loss_of(objective, trees[::-1], outputs[::-1])
    assert back.total.item() == pytest.approx(loss_of(objective, trees, outputs).total.item(), rel=1e-12)


@every
def test_gradients(name, keys):
    objective, trees = bound(name, keys), rows_for(name, keys)
    outputs = said(name, trees, keys=keys)
    forest = plant(trees)
    loss = loss_of(objective, trees, outputs)
    step = dict(objective.gather(torch.cat(outputs), forest)) if isinstance(objective, Gathering) else {}
    forest = replace(forest, step=step)  # constant: z0 has no gradient
    flat = torch.cat(outputs).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective.loss(x, forest).total, (flat,))
    assert loss.total.dtype == torch.float64
    assert all(not value.requires_grad for value in objective.loss(flat, forest).metrics.values())


@every
def test_single_precision(name, keys):
    objective, trees = bound(name, keys), rows_for(name, keys)
    exact = loss_of(objective, trees, said(name, trees, keys=keys)).total
    single = loss_of(objective, trees, said(name, trees, torch.float32, keys)).total
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(float(exact), rel=3e-6)


@every
@pytest.mark.parametrize("first", [-1e4, 0.0])
@pytest.mark.parametrize("second", [-1e4, 0.0])
def test_extremes_are_finite(name, keys, first, second):
    """Tokens that are all but impossible, and tokens that are certain."""
    objective, trees = bound(name, keys), rows_for(name, keys)
    outputs = []
    for values in said(name, trees, keys=keys):
        values[::2], values[1::2] = first, second
        outputs.append(values.requires_grad_())
    loss = loss_of(objective, trees, outputs)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(value.grad).all() for value in outputs)
    assert {key for key, value in loss.metrics.items() if not torch.isfinite(value)} == set()


@every
def test_the_loss_at_the_start(name, keys):
    """Where the policy says what the reference says, the loss is what the objective promises."""
    objective, trees = bound(name, keys), rows_for(name, keys)
    if objective.loss_at_start is None:
        return
    assert objective.reference
    outputs = [plant([tree]).reference for tree in trees]
    loss = loss_of(objective, trees, outputs)
    assert loss.total.item() / units_of(objective, trees) == pytest.approx(objective.loss_at_start, rel=1e-6)
    assert float(loss.metrics["kl"]) == 0.0


@every
def test_prompts_may_stand_once_for_each_answer(name, keys):
    """The layout of other trainers gives the same loss: only who is judged counts."""
    if rows_of(name) != "judged":
        return
    objective, trees = bound(name, keys), rows_for(name, keys)
    outputs = said(name, trees, keys=keys)
    apart = [unshared(tree) for tree in trees]
    if tasks_of(name)[0] == "SEQ_CLS":  # a value for each segment: the prompt's stands there once for each answer
        spread = [torch.stack([v for value in values[1:] for v in (values[0], value)]) for values in outputs]
    else:
        spread = outputs
    expected = loss_of(objective, trees, outputs)
    assert loss_of(objective, apart, spread).total.item() == pytest.approx(expected.total.item(), rel=1e-12)
    assert units_of(objective, apart) == units_of(objective, trees)


@every
def test_rows_without_a_judgement_count_nothing(name, keys):
    if rows_of(name) != "judged":
        return
    objective = bound(name, keys)
    nothing = [judged_tree([], seed, mismatched=1) for seed in range(2)]
    if not getattr(bound(name, {}), "mismatched", False):
        nothing += [judged_tree([1.0], 3), judged_tree([2.0, 2.0], 4)]
    outputs = [value.requires_grad_() for value in said(name, nothing)]
    loss = loss_of(objective, nothing, outputs)
    assert units_of(objective, nothing) == 0
    assert loss.total.item() == 0.0
    loss.total.backward()  # what the engine does with it must not fail
    both = nothing + rows_for(name)
    extended = loss_of(objective, both, [*outputs, *said(name, rows_for(name))])
    if not getattr(bound(name, {}), "mismatched", False):  # a mismatched answer moves z0
        alone = loss_of(objective, rows_for(name), said(name, rows_for(name)))
        assert extended.total.item() == pytest.approx(alone.total.item(), rel=1e-12)


@each
def test_it_leaves_its_inputs_alone(name):
    objective, trees = bound(name, {}), rows_for(name)
    outputs = said(name, trees)
    before, kept = [value.clone() for value in outputs], copy.deepcopy(plant(trees))
    loss_of(objective, trees, outputs)
    assert all(torch.equal(a, b) for a, b in zip(before, outputs, strict=True))
    assert kept.reference is None or torch.equal(kept.reference, plant(trees).reference)


@each
def test_a_missing_reference_is_told(name):
    objective = bound(name, {})
    if not objective.reference:
        return
    bare: list[Tree] = [judged_tree([1.0, 0.0], 1, mismatched=1, reference=False)]
    with pytest.raises(Exception, match="the forest does not say what the reference model says"):
        loss_of(objective, bare, said(name, bare))


@every
@pytest.mark.parametrize("split", [(1, 1, 1, 1, 1), (2, 3)], ids=str)
def test_batches_of_an_evaluation_do_not_matter(name, keys, split):
    """Metrics come from the records of all batches."""
    objective, trees = bound(name, keys), rows_for(name, keys)
    if not isinstance(objective, Predicting):
        return
    outputs = [value.requires_grad_() for value in said(name, trees, keys=keys)]
    whole = objective.records(torch.cat(outputs), plant(trees))
    assert not any(value.requires_grad for value in whole.values())
    ends = np.cumsum([0, *split])
    parts = [objective.records(torch.cat(outputs[a:b]), plant(trees[a:b])) for a, b in pairwise(ends)]
    expected, found = objective.metrics(whole), objective.metrics(joined(parts))
    assert found == pytest.approx(expected, rel=1e-12)
    assert found
    assert all(isinstance(value, float) for value in found.values())
