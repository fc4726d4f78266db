# SPDX-License-Identifier: Apache-2.0
"""Keys of objectives: what is refused, in a recipe's own words; and `luthier objectives`."""

from __future__ import annotations

import json

import pytest

from luthier.cli import main
from luthier.core import registry
from luthier.core.errors import RecipeError
from luthier.recipe import load_recipe

REFUSED = [
    ("{name: dpo, beta: 0}", "objective.beta: received 0 .*more than 0"),
    ("{name: dpo, beta: .inf}", "objective.beta: .*finite number"),
    ("{name: dpo, loss_type: sigmiod}", "objective.loss_type: .*did you mean 'sigmoid'"),
    ("{name: dpo, loss_type: ipo}", "objective.loss_type: .*allowed: sigmoid, hinge"),
    ("{name: dpo, label_smoothing: 0.5}", "objective.label_smoothing: .*less than 0.5"),
    ("{name: dpo, loss_type: hinge, label_smoothing: 0.1}", "objective.label_smoothing: .*hinge knows no smoothing"),
    ("{name: dpo, loss_type: exo_pair}", "objective: .*label_smoothing above 0.*exo_pair.*label_smoothing: 0.001"),
    ("{name: dpo, loss_type: apo_zero, f_divergence_type: forward_kl}", "objective.f_divergence_type: .*apo_zero"),
    ("{name: dpo, f_alpha_divergence_coef: 0.3}", "objective.f_alpha_divergence_coef: .*alone reads it"),
    ("{name: dpo, discopop_tau: 0.1}", "objective.discopop_tau: .*alone reads it"),
    ("{name: dpo, loss_type: discopop, discopop_tau: 2.0}", "objective.discopop_tau: .*1 or less"),
    ("{name: dpo, reference: ''}", "objective.reference: "),
    ("{name: dpo, precompute_ref_log_probs: sometimes}", "objective.precompute_ref_log_probs: .*auto or true or false"),
    ("{name: dpo, simpo_gamma: 1}", "objective.simpo_gamma: unknown key"),
    ("{name: simpo, reference: base}", "objective.reference: unknown key"),
    ("{name: cpo, loss_type: hinge, label_smoothing: 0.1}", "objective.label_smoothing: .*hinge knows no smoothing"),
    ("{name: kto, desirable_weight: -1}", "objective.desirable_weight: .*0 or more"),
    ("{name: reward, center_rewards_coefficient: -0.1}", "objective.center_rewards_coefficient: .*0 or more"),
]


def _load(section: str):
    return load_recipe({"model": {"model_name_or_path": "embedded"}, "data": {"train": "rows.jsonl"}}, [section])


@pytest.mark.parametrize(("section", "message"), REFUSED)
def test_refused(section, message):
    with pytest.raises(RecipeError, match=message):
        _load(f"objective={section}")


@pytest.mark.parametrize("name", registry.entries("objectives"))
def test_the_resolved_section_reads_back(name):
    first = _load(f"objective={name}")
    assert _load(f"objective={json.dumps(dict(first.recipe.objective))}").fingerprint == first.fingerprint


def test_objectives_are_listed(capsys):
    main(["objectives"])
    words = capsys.readouterr().out
    main(["objectives", "--json"])
    known = json.loads(capsys.readouterr().out)
    assert {entry["name"]: entry["help"] for entry in known} == registry.entries("objectives")
    assert [line.split("  ", 1)[0] for line in words.splitlines()] == list(registry.entries("objectives"))
